"""Several requests in one config: each is checked by itself and against those before it."""

import pytest
from small_run import small
from test_config import changed, refusal, set_field

from ec_jax import config as config_lib
from ec_jax import data_config, sequence
from ec_jax.pipeline import Experiment
from ec_jax.scenario import Scenario

REFUSED = [
    ("3;", "request 2 of 2: names no class; give ids or names"),
    (";3", "request 1 of 2: names no class; give ids or names"),
    ("3;;5", "request 2 of 3: names no class"),
    ("3;5,3", "request 2 of 2: class '3' is forgotten before; name every class once"),
    ("3;11", "request 2 of 2: class 11 is out of range; ids go from 0 to 9"),
    ("3;5;file:/no/such/file", "request 3 of 3: No such file or directory; give a text file"),
    ("3;samples:5", "request 2 of 2: names single images; in a sequence give classes"),
    ("samples:5;3", "request 1 of 2: names single images"),
    ("0,1,2,3,4;5,6,7,8,9", "request 2 of 2: forgets all classes; leave at least one"),
    ("random:4;random:6", "request 2 of 2: random:K takes an integer K from 1 to 5"),
    ("0,1,2,3,4,5,6,7,8;random:1", "request 2 of 2: only one class is left; keep it"),
]


@pytest.mark.parametrize(("value", "remedy"), REFUSED)
def test_a_sequence_that_cannot_work_is_refused_with_its_remedy(value, remedy):
    message = refusal(set_field("forget.classes", value))
    assert message.startswith(f"forget.classes = {value!r}: {remedy}")


def test_what_was_forgotten_before_is_not_forgotten_again():
    message = refusal(changed(forget__classes="5,3", forget__earlier="1,3"))
    assert message.startswith("forget.classes = '5,3': class '3' is forgotten before")
    message = refusal(changed(forget__classes="samples:9", forget__earlier="1"))
    assert message.startswith("forget.classes = 'samples:9': single images cannot follow classes")
    message = refusal(changed(forget__classes="0,1,2,3,4", forget__earlier="5,6,7,8,9"))
    assert "leave at least one" in message
    message = refusal(changed(forget__classes="3;1", forget__earlier="3"))
    assert "request 1 of 2: class '3' is forgotten before" in message


def test_the_requests_of_a_config():
    assert data_config.requests(changed()) == ((3,),)
    assert data_config.requests(changed(forget__classes="5; 8,1;0")) == ((5,), (1, 8), (0,))
    config_lib.validate(changed(forget__classes="5;1", forget__earlier="3"))


def test_what_does_not_go_with_a_sequence():
    sequence = {"forget__classes": "5,3;1"}
    message = refusal(changed(**sequence, oracle__checkpoint="an/oracle"))
    assert message.startswith("oracle.checkpoint = 'an/oracle': every request of a sequence has")
    message = refusal(changed(**sequence, stages="original,oracle"))
    assert message.startswith("stages = 'original,oracle': every request of a sequence runs all")
    message = refusal(changed(**sequence, ec__candidates="forget"))  # of the second request
    assert message.startswith("ec.candidates = 'forget': ")


@pytest.mark.parametrize(
    ("classes", "earlier", "labels"),
    [
        ("2,3", "0", (1,)),
        ("1", "0", (0,)),  # the last of its label that is left
        ("1,2,3", "0", (0, 1)),
        ("2", "0", ()),  # one of two
        ("1,2", "0", ()),
        ("2,3", "0,1", (1,)),  # a label that nothing is left of is not forgotten again
    ],
)
def test_a_label_is_forgotten_when_nothing_of_it_is_left(classes, earlier, labels):
    forget = {"forget__classes": classes, "forget__earlier": earlier}
    scenario = Scenario(changed(data__groups="0,1|2,3|4,5,6,7,8,9", **forget))
    assert scenario.forget_classes == labels


def test_a_run_is_of_one_request():
    message = refusal(changed(forget__classes="5;1"), data_config.forget_classes)
    assert message.startswith("forget.classes = '5;1': is a sequence, which only ec_jax.main runs")


GROUPS = "0,1|2,3|4,5,6,7,8,9"


@pytest.mark.parametrize("classes", ["2,3", "4,6", "0,1;4,6,2", "0,3;4,5,6,7,8,9"])
def test_forgotten_classes_of_one_label_are_no_candidates_for_each_other(classes):
    config = changed(data__groups=GROUPS, forget__classes=classes, ec__candidates="forget")
    message = refusal(config)
    assert message.startswith("ec.candidates = 'forget': all that is forgotten has one label")


def test_a_method_too_sees_that_sub_classes_have_one_label(tmp_path):
    own = {"method": "contrastive", "contrastive__candidates": "forget", "data__groups": GROUPS}
    message = refusal(small(**own, forget__classes="4,6"), Experiment, tmp_path)
    assert message.startswith("contrastive.candidates = 'forget': all that is forgotten has one")
    Experiment(small(**own, forget__classes="2,6"), tmp_path)  # two labels, of each a part


def test_what_the_method_refuses_of_a_later_request_is_refused_before_the_first(tmp_path):
    own = {"method": "contrastive", "contrastive__candidates": "forget"}
    config = small(**own, forget__classes="5,3;1")
    message = refusal(config, sequence.run, tmp_path / "w")
    assert message.startswith("contrastive.candidates = 'forget': all that is forgotten has one")
    assert not (tmp_path / "w").exists()


def test_the_labels_of_classes():
    assert data_config.labels(changed(), (3, 5)) == (3, 5)
    config = changed(data__groups=GROUPS)
    assert data_config.labels(config, (3, 2, 5)) == (1, 2)
    assert data_config.labels(config, ()) == ()
    config_lib.validate(
        changed(data__groups=GROUPS, forget__classes="0,2", ec__candidates="forget")
    )
