import pytest

from ec_jax import digests


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"files": {"model/../../../../dev/zero": [0, "x"]}}', "is missing"),
        ('{"files": {"/dev/zero": [0, "x"]}}', "is missing"),
        ('{"files": {"model/a\\u0000b": [0, "x"]}}', "is missing"),
        ('{"files": {"model/a": [Infinity, "x"]}}', "cannot be read"),
        ('{"files": {}}', "names no file"),
        ('{"files": ' + "[" * 100_000, "cannot be read"),
    ],
    ids=["up", "absolute", "NUL", "infinite", "none", "deep"],
)
def test_the_names_in_a_digest_file_lead_nowhere(text, says, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "_METADATA").write_text("{}")
    (tmp_path / digests.SEAL).write_text(text)
    assert says in digests.damage(tmp_path)
