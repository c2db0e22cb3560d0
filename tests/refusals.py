"""Every mistake that a command answers, in one table: tests run it, docs/refusals.md shows it.

A case is a command line that cannot work and the words by which its one line is known. ``{dir}``
stands for the case's own folder, in which nothing may be added or changed.
"""

import dataclasses
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIGITS = "--config=configs/digits.py"
NEW = "{dir}/runs/new"  # a folder that must not come into being
LONG = "x" * 100_000
Content = str | bytes | Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Case:
    """One command line.

    Attributes:
      module: of ``python -m MODULE``; a program's path, ending in ``.py`` or ``.sh``; ``-c``.
      arguments: of the command.
      says: parts of the one line on stderr, in their order.
      status: with which the command ends.
      files: {name in the case's folder: content, or what makes it}.
    """

    module: str
    arguments: tuple[str, ...]
    says: tuple[str, ...]
    status: int = 2
    files: Mapping[str, Content] = dataclasses.field(default_factory=dict)

    @property
    def start(self) -> list[str]:
        """The command before the arguments."""
        if self.module.endswith(".sh"):
            return ["bash", self.module]
        alone = self.module == "-c" or self.module.endswith(".py")
        return [sys.executable, *(["-m"] * (not alone)), self.module]

    def placed(self, folder: Path) -> tuple[list[str], list[str]]:
        """(arguments, parts of the line) of the case in this folder, whose files are made."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)
        replaced = (
            [t.replace("{dir}", str(folder)) for t in of] for of in (self.arguments, self.says)
        )
        return tuple(replaced)


def link(target: str) -> Content:
    """A symbolic link."""
    return lambda path: path.symlink_to(target)


def large(size: int) -> Content:
    """A file of zeros that takes no room."""
    return lambda path: (path.touch(), os.truncate(path, size))


def _field(override: str, *says: str, files: Mapping[str, Content] | None = None) -> Case:
    name = override.partition("=")[0]
    arguments = (DIGITS, f"--workdir={NEW}", "--config.parallel.devices=2", f"--config.{override}")
    return Case("ec_jax.main", arguments, (f"{name} = ", *says), files=files or {})


def _main(
    arguments: tuple[str, ...], *says: str, files: Mapping[str, Content] | None = None
) -> Case:
    return Case("ec_jax.main", (f"--workdir={NEW}", *arguments), says, files=files or {})


def _config(text: str | bytes, *says: str, status: int = 2) -> Case:
    """A config file of one's own."""
    arguments = ("--config={dir}/mine.py", f"--workdir={NEW}")
    return Case("ec_jax.main", arguments, says, status, {"mine.py": text})


def _changed(line: str, *says: str) -> Case:
    """The digits' config with a line more."""
    text = (
        "from configs import digits\n\n\ndef get_config():\n    c = digits.get_config().unlock()\n"
    )
    return _config(f"{text}    {line}\n    return c\n", *says)


FIELDS = (
    _field("ec.temprature=0.1", "'0.1'", "did you mean 'ec.temperature'?"),
    _field("temperature=0.1", "'0.1'", "did you mean 'ec.temperature'?"),
    _field("ec.temperature.x=1", "'1'", "did you mean 'ec.temperature'?"),
    _field("ec=1", "'1'", "set one of ec."),
    _field("__class__=1", "'1'", "no such field"),
    _field("ec.temperature=abc", "'abc'", "give a number"),
    _field("ec.temperature=0", "0.0", "give a number > 0"),
    _field("ec.temperature=-1", "-1.0", "give a number > 0"),
    _field("ec.temperature=nan", "nan", "give a number > 0"),
    _field("unlearn.optimizer.learning_rate=1e400", "inf", "give a number > 0"),
    _field("unlearn.steps=1.5", "'1.5'", "give an integer"),
    _field("unlearn.steps=True", "'True'", "give an integer"),
    _field("unlearn.batch_norm=", "''", "one of inference, train"),
    _field("seed=-1", "-1", "give an integer >= 0"),
    _field("seed=" + "9" * 5000, "…", "give an integer"),
    _field("data.batch_size=99999999999999999999", "give an integer >= 1 and <= 2147483647"),
    _field("data.batch_size=63", "63", "not divisible by 2 devices; use 62 or 64"),
    _field("data.name=cifar", "'cifar'", "did you mean 'cifar10'?"),
    _field("data.name=", "''", "no such set"),
    _field("data.name=../../etc", "'../../etc'", "no such set"),
    _field("data.name=/etc/passwd", "'/etc/passwd'", "no such set"),
    _field("data.name=folder:../../x", "'folder:../../x'", "no such set"),
    _field("data.name=mnist/../../x", "'mnist/../../x'", "no such set"),
    _field("data.name=huggingface:mnist", "'huggingface:mnist'", "no such set"),
    _field("data.name=mnist:9.9.9", "'mnist:9.9.9'", "no such version"),
    _field("data.name=\x1b[31mred\nline", r"'\x1b[31mred\nline'", "no such set"),
    _field("data.name=digits\u202e", r"'digits\u202e'", "no such set"),
    _field(f"data.name={LONG}", "x…x", "no such set"),
    _field("data.data_dir=/no/such/folder", "'/no/such/folder'", "no such folder"),
    _field("data.data_dir=gs://bucket", "'gs://bucket'", "no such folder"),
    _field("data.manual_dir=/no/such/folder", "'/no/such/folder'", "no such folder"),
    _field("data.subset=1438", "1438", "the set has 1437 training images; 0 for all"),
    _field("data.groups=" + "|" * 10_000, "…", "'' is no class"),
    _field("data.normalize=nan;nan", "'nan;nan'", "data, imagenet, or 1 means"),
    _field("method=ecc", "'ecc'", "did you mean 'ec'?"),
    _field("method=os:system", "'os:system'", "must be dictionaries of literals"),
    _field("method=json:loads", "'json:loads'", "cannot be imported as build(config, points)"),
    _field("method=../../x:build", "'../../x:build'", "or a path module:object"),
    _field(f"method={LONG}:build", "x…", "there is no module"),
    _field("forget.classes=3,thre", "'3,thre'", "no class is named 'thre'"),
    _field("forget.classes=11", "'11'", "ids go from 0 to 9"),
    _field("forget.classes=0,1,2,3,4,5,6,7,8,9", "'0,1,2", "leave at least one"),
    _field("forget.classes=", "''", "names no class"),
    _field("forget.classes=3;;5", "'3;;5'", "request 2 of 3"),
    _field("forget.classes=random:²", "'random:²'", "takes an integer K from 1 to 9"),
    _field(f"forget.classes={LONG}", "x…x", "no class is named"),
    _field("forget.classes=file:/dev/zero", "'file:/dev/zero'", "not a text file"),
    _field("forget.classes=file:../../etc/none", "No such file or directory"),
    _field("forget.classes=file:{dir}", "Is a directory"),
    _field("forget.classes=file:{dir}/pipe", "not a text file", files={"pipe": os.mkfifo}),
    _field("forget.classes=file:{dir}/big", "not a text file", files={"big": large(2**34)}),
    _field("forget.classes=file:{dir}/a", "symbolic links", files={"a": link("a")}),
    _field("forget.classes=file:{dir}/a", "not a text file", files={"a": b"\xff\xfe\0"}),
    _field("forget.classes=file:{dir}/a", r"'\x1b]0;title\x07'", files={"a": "\x1b]0;title\x07"}),
    _field("forget.classes=samples:{dir}/a", "'-1' is no index", files={"a": "0\n-1\n"}),
    _field("ec.candidates=forget", "'forget'", "use both, or forget classes of several"),
    _field("ec.weights=nan,nan,nan,nan", "4 finite numbers"),
    _field("ec.points=stage4,stage1", "name each point once, in the model's order"),
    _field("original.checkpoint=/no/such/folder", "'/no/such/folder'", "no checkpoint there; give"),
    _field("original.checkpoint=configs", "configs'", "no checkpoint there; give"),
    _field("original.checkpoint=/dev/null", "'/dev/null'", "no checkpoint there"),
    _field("original.checkpoint={dir}", "no checkpoint there", files={"²/x": "", "...": ""}),
    _field("oracle.checkpoint={dir}/a/b", "no checkpoint there", files={"a": link("a")}),
    _field("evaluation.neighbors=1438", "1438", "there are 1437 training images; at most that"),
    _field("evaluation.metrics=../cka", "'../cka'", "there is no metric"),
    _field("evaluation.transfer=folder:../../x", "'folder:../../x'", "not coloured squares"),
    _field("model.name=resnett", "'resnett'", "did you mean 'resnet'?"),
    _field("model.width=1000000000", "1000000000", "give an integer >= 1 and <= 16384"),
    _field("stages=unlern", "'unlern'", "did you mean 'unlearn'?"),
    _field("stages=unlearn", "'unlearn'", "needs original", "add original"),
)


def _names_itself(path: Path) -> None:
    path.write_text(f"--flagfile={path}")


FLAGS = (
    _main((), "--config = None: give a file"),
    _main(("--config",), "--config = None: give a file"),
    _main(("--confg=configs/digits.py",), "--confg", "no such flag; did you mean 'config'?"),
    _main((DIGITS, "--forget.classes=3"), "--forget.classes", "write --config.forget.classes"),
    _main((DIGITS, "--wokdir=x"), "--wokdir = 'x': no such flag; did you mean 'workdir'?"),
    _main((DIGITS, "--\x1b[2J=x"), r"--\x1b[2J = 'x': no such flag"),
    _main((DIGITS, "--flagfile=/no/such/file"), "Unable to open flagfile", "'/no/such/file'"),
    _main((DIGITS, "--flagfile={dir}/f"), "--flagfile", "circular", files={"f": _names_itself}),
    _main((DIGITS, "--flagfile={dir}/f"), "--flagfile: ", "decode", files={"f": b"\xff\xfe"}),
    _main((DIGITS, "--flagfile={dir}/f"), "workdir = ", files={"f": b"--workdir=a\0b"}),
    _main((DIGITS, "--workdir="), "--workdir = '': give a folder"),
    _main((DIGITS, "--workdir"), "--workdir = None: give a folder"),
    _main((DIGITS, DIGITS, "--config.seed=1"), "digits.py': given twice; give one file"),
    _main((DIGITS, "more"), "argument = 'more': not understood; flags are written --name=value"),
    _main((DIGITS, "--config.seed"), "seed = None: give an integer, as in --config.seed=VALUE"),
    _main((DIGITS, "--config.seed=x", "--config.seed=1"), "seed = 'x': give an integer"),
    _main(("--config.seed=1", DIGITS), "--config.seed = '1': give it after --config=FILE"),
    _main(
        ("--config", "configs/digts.py"),
        "'configs/digts.py': no such file; did you mean 'configs/di",
    ),
    _main(("--config=digits.py",), "'digits.py': no such file; did you mean 'configs/digits.py'?"),
    _main(("--config=/dev/zero",), "'/dev/zero': no such file"),
    _main((f"--config={LONG}",), "no such file"),
    _main(
        ("--config=configs/cifar10.py:nonsense",),
        "cifar10.py:nonsense'",
        "no scenario",
        "are one, three",
    ),
    _main((f"{DIGITS}:one",), "digits.py:one'", "this file has no scenarios"),
    Case("ec_jax.main", (DIGITS,), ("--workdir = None: give a folder",)),
)

CONFIGS = (
    _config("def get_config(:", "--config = ", "SyntaxError: "),
    _config(b"\xff\xfe\0", "--config = ", "SyntaxError: "),
    _config("import not_there", "ModuleNotFoundError: No module named 'not_there'"),
    _config("open('/no/such/file')", "FileNotFoundError: "),
    _config("def get_config():\n    raise KeyError('width')", "KeyError: 'width'"),
    _config("raise SystemExit('no')", "SystemExit: no"),
    _config("def get_config():\n    exit(0)", "SystemExit: 0"),
    _config("def get_config():\n    return get_config()", "RecursionError"),
    _config("raise ValueError('a\\nb\\x1b[31m\\u202e')", r"ValueError: a b\x1b[31m\u202e; correct"),
    _config("raise KeyboardInterrupt", "interrupted", status=130),
    _config("x = 1", "has no get_config()"),
    _config("def get_config():\n    pass", "has no get_config() that returns a ConfigDict"),
    _config("def get_config():\n    return {'seed': 1}", "has no get_config() that returns"),
    _config("from ml_collections import ConfigDict as get_config", "method = None: one of"),
    _changed("del c.ec.temperature", "ec.temperature = None: the config lacks this field"),
    _changed("del c.ec", "ec.lambda = ", "a recipe cannot set it"),
    _changed("c.data = 3", "Could not override field 'data'", "correct the file"),
    _changed("c['a\\x1b'] = 3", r"a\x1b = 3: no such field"),
    _changed("c.recipes = {'ec': 3}", "recipes = 3: give {method: {field: value}}"),
    _changed("c.recipes = {'ec': {'no': {'x': 3}}}", "no.x = 3: a recipe cannot set it"),
    _changed("c.recipes = {'ec': {'ec': {'temperature': 'hot'}}}", "ec.temperature = 'hot'"),
    _changed("c.original.checkpoint = 'a\\0b'", r"original.checkpoint = ", r"a\x00b'"),
    _changed("c.forget.classes = 'file:a\\0b'", r"forget.classes = 'file:a\x00b'"),
    _changed("c.data.data_dir = 'a\\0b'", r"data.data_dir = 'a\x00b': no such folder"),
)


def _workdir(path: str, *says: str, files: Mapping[str, Content] | None = None) -> Case:
    return Case(
        "ec_jax.main", (DIGITS, f"--workdir={path}"), ("workdir = ", *says), files=files or {}
    )


WORKDIRS = (
    _workdir("{dir}/file", "cannot be written", "choose another folder", files={"file": "mine"}),
    _workdir("{dir}/file/run", "cannot be written", "choose another", files={"file": "mine"}),
    _workdir("{dir}/a", "cannot be written", "symbolic links", files={"a": link("a")}),
    _workdir("{dir}/a", "cannot be written", "No such file", files={"a": link("/no/where")}),
    _workdir("/dev/full", "'/dev/full': cannot be written"),
    _workdir("/proc/run", "'/proc/run': cannot be written"),
    _workdir("{dir}/" + "x" * 300, "cannot be written", "choose another folder"),
    _workdir("{dir}/a\x1b[31m", r"a\x1b[31m': cannot be printed; choose another name"),
    _workdir("{dir}/a\udcff", r"a\udcff': cannot be printed; choose another name"),
    _workdir("{dir}", "holds other files; choose an empty folder", files={"thesis.tex": "mine"}),
    _workdir("{dir}", "config.json cannot be read; choose another", files={"config.json": "{"}),
    _workdir("{dir}", "config.json cannot be read", files={"config.json": "[" * 200_000}),
    _workdir(
        "{dir}", "config.json cannot be read", files={"config.json": '{"a":' + "9" * 5000 + "}"}
    ),
    _workdir("{dir}", "was made by another version", files={"config.json": "{}"}),
    _workdir("{dir}", "holds other files", files={"config.json": os.mkfifo}),
)


def _sweep(rows: str, *says: str, more: tuple[str, ...] = ()) -> Case:
    arguments = (DIGITS, "--sweep={dir}/rows.py", f"--workdir={NEW}", *more)
    text = f"def get_rows(config):\n    return {rows}\n"
    return Case("ec_jax.sweep", arguments, says, files={"rows.py": text})


def _rows(path: str, *says: str, text: str = "") -> Case:
    arguments = (DIGITS, f"--sweep={path}", f"--workdir={NEW}")
    return Case("ec_jax.sweep", arguments, says, files={"mine.py": text} if text else {})


def _tune(*arguments: str, says: tuple[str, ...]) -> Case:
    return Case("ec_jax.tune", (DIGITS, f"--workdir={NEW}", *arguments), says)


GRIDS = (
    _sweep("{'a': {'ec.temprature': 1.0}}", "ec.temprature = 1.0: no such field; did you mean"),
    _sweep("{'a': {'ec.temperature': 'hot'}}", "ec.temperature = 'hot': the sweep must give"),
    _sweep("{'a': {'ec.temperature': -1.0}}", "ec.temperature = -1.0: give a number > 0"),
    _sweep("{'a': {3: 3}}", "3 = 3: no such field"),
    _sweep("{'a': {'method': 'scrubb'}}", "method = 'scrubb': did you mean 'scrub'?"),
    _sweep("{'a/b': {}}", "the row 'a/b' names files"),
    _sweep("{'..': {}}", "the row '..' names files"),
    _sweep("{'-x': {}}", "the row '-x' names files"),
    _sweep("{'a' * 300: {}}", "the row 'aaa", "names files"),
    _sweep("{'a-seed1': {}}", "the row 'a-seed1' names files"),
    _sweep("{'a\\x1b[31m': {}}", r"the row 'a\x1b[31m' names files"),
    _sweep("{}", "gives no row"),
    _sweep("1", "get_rows(config): AttributeError"),
    _sweep("{'a': {}}", "--rows = '../..': no row '../..'", more=("--rows=../..",)),
    _sweep("{'a': {}}", "--seeds = '0,x'", more=("--seeds=0,x",)),
    _sweep("{'a': {}}", "--seeds = '9999", "give integers >= 0", more=("--seeds=" + "9" * 5000,)),
    _sweep("{'a': {}}", "--seeds = '٣'", "give integers >= 0", more=("--seeds=٣",)),
    _sweep("{'a': {}}", "--seeds = '-1'", "give integers >= 0", more=("--seeds=-1",)),
    _rows("", "--sweep = '': give a file"),
    _rows("configs/sweeps/method.py", "did you mean 'configs/sweeps/methods.py'?"),
    _rows(LONG, "--sweep = ", "no such file"),
    _rows("{dir}/mine.py", "has no get_rows(config)", text="x = 1"),
    _rows("{dir}/mine.py", "SystemExit: 0", text="exit(0)"),
    _tune("--methods=scrubb", says=("--methods = 'scrubb'", "did you mean 'scrub'?")),
    _tune("--methods=../../x:y", says=("--methods = '../../x:y'", "or a path module:object")),
    _tune("--methods=os:system", says=("method = 'os:system'", "must be dictionaries of literals")),
    _tune("--methods=retrain", says=("--methods = 'retrain'", "leave it out")),
    _tune("--methods=ec", "--confirm=1,x", says=("--confirm = '1,x'", "give integers")),
    _tune(
        "--methods=ec", "--confirm=99999999999", says=("--confirm = '99999999999'", "2147483647")
    ),
    _tune(
        "--methods=ec", "--config.forget.classes=1;2", says=("forget.classes = '1;2'", "sequence")
    ),
    Case("ec_jax.tune", (DIGITS, "--workdir="), ("--workdir = '': give a folder",)),
)


def _numbers(**changes: object) -> str:
    """A published run's metrics with other values; ``a__b=1`` sets ``a.b``."""
    found = json.loads((ROOT / "docs" / "results" / "digits" / "ec-seed0.json").read_text())
    for name, value in changes.items():
        *groups, field = name.split("__")
        inside = found
        for group in groups:
            inside = inside[group]
        inside[field] = value
    return json.dumps(found)


RUN = "docs/results/digits/ec-seed0.json"


def _compare(
    *arguments: str, says: tuple[str, ...], files: Mapping[str, Content] | None = None
) -> Case:
    given = (
        arguments if any(a.startswith("--out") for a in arguments) else (*arguments, f"--out={NEW}")
    )
    return Case("ec_jax.compare", given, says, files=files or {})


def _metrics(content: Content, *says: str) -> Case:
    files = {"metrics.json": content}
    return _compare(RUN, "{dir}", says=("RUN_DIR = '{dir}'", *says), files=files)


COMPARISONS = (
    _compare(says=("RUN_DIR = None: give the workdirs",)),
    _compare(RUN, "--out=", says=("--out = '': give a folder for the result",)),
    Case("ec_jax.compare", (RUN,), ("--out = None: give a folder for the result",)),
    _compare(RUN, "--by-scenarios", says=("no such flag; did you mean '--by-scenario'?",)),
    _compare(RUN, "{dir}/x", says=("RUN_DIR = '{dir}/x'", "no such file or folder")),
    _compare(RUN, LONG, says=("RUN_DIR = 'xxx", "no such file or folder")),
    _compare(RUN, "/dev/zero", says=("RUN_DIR = '/dev/zero'", "no such file or folder")),
    _compare(RUN, "{dir}/a", says=("RUN_DIR = ", "no such file"), files={"a": link("a")}),
    _compare("{dir}", says=("holds no metrics.json or audit.json", "finished run")),
    _compare(RUN, RUN, says=("seed = 0: given twice for ec", "leave one of them out")),
    _compare(RUN, "--out={dir}/f", says=("--out = ", "cannot be written"), files={"f": "mine"}),
    _compare(RUN, "--out={dir}/f/o", says=("--out = ", "cannot be written"), files={"f": "mine"}),
    _compare(RUN, "--out={dir}/a", says=("--out = ", "cannot be written"), files={"a": link("a")}),
    _compare(RUN, "--out=/dev/full", says=("--out = '/dev/full': cannot be written",)),
    _compare(
        RUN,
        "--out={dir}",
        says=("holds a table.md that no comparison",),
        files={"table.md": "mine"},
    ),
    _metrics("{", "its metrics.json cannot be read", "make it anew"),
    _metrics("[]", "its metrics.json cannot be read"),
    _metrics("", "its metrics.json cannot be read"),
    _metrics(b"\xff", "its metrics.json cannot be read"),
    _metrics("[" * 200_000, "its metrics.json cannot be read", "nested too deeply"),
    _metrics('{"a":' + "9" * 5000 + "}", "its metrics.json cannot be read"),
    _metrics("{}", "scenario does not hold what was run"),
    _metrics('{"scenario": {}}', "scenario.dataset does not hold a str"),
    _metrics(_numbers(scenario__seed=True), "scenario.seed does not hold a int"),
    _metrics(_numbers(scenario__images=[]), "scenario.images does not hold a dict"),
    _metrics(_numbers(scenario__points=[1]), "scenario.points does not hold names"),
    _metrics(_numbers(scenario__forget_names=["a", "b"]), "one name a forgotten class"),
    _metrics(_numbers(models__unlearned={"a": 10**400}), "the unlearned model's numbers"),
    _metrics(_numbers(models__unlearned={"a": "<script>"}), "the unlearned model's numbers"),
)


def _audit(
    *arguments: str, says: tuple[str, ...], files: Mapping[str, Content] | None = None
) -> Case:
    given = [DIGITS, "--original=configs", "--candidate=configs", f"--out={NEW}"]
    names = [a.partition("=")[0] for a in arguments]
    kept = [g for g in given if g.partition("=")[0] not in names]
    return Case("ec_jax.audit", (*kept, *arguments), says, files=files or {})


AUDITS = (
    Case("ec_jax.audit", (DIGITS,), ("--original = None: give a folder",)),
    _audit("--oracle=", says=("--oracle = '': give a folder",)),
    _audit("--workdir=x", says=("--workdir = 'x': no such flag",)),
    _audit("--original=/no/such", says=("--original = '/no/such': no checkpoint there",)),
    _audit("--original=\x1b[31m", says=(r"\x1b[31m': no checkpoint there",)),
    _audit("--original={dir}", says=("--original = ", "no checkpoint there"), files={"²/x": ""}),
    _audit(
        "--original={dir}", says=("cannot be read",), files={"0/model/_METADATA": "[" * 200_000}
    ),
    _audit(
        "--config.evaluation.metrics=knn", says=("evaluation.metrics = 'knn': without accuracy",)
    ),
    _audit("--out=docs", says=("--out = ", "holds other files")),
    _audit("--out={dir}/a", says=("--out = ", "cannot be written"), files={"a": link("a")}),
    _audit("--config.forget.classes=1;2", says=("forget.classes = '1;2'", "is a sequence")),
)


class Evil:
    """A pickle whose loading would make a file."""

    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


def _safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(16)


def _bomb(path: Path) -> None:
    """An archive of a quarter megabyte that holds 256."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00." + bytes(2**28))
        archive.writestr("archive/version", "3\n")


def _inspect(name: str, content: Content | None, *says: str) -> Case:
    files = {} if content is None else {name: content}
    return Case("ec_jax.convert", ("inspect", f"{{dir}}/{name}"), ("FILE = ", *says), files=files)


def _convert(
    *arguments: str, says: tuple[str, ...], files: Mapping[str, Content] | None = None
) -> Case:
    return Case("ec_jax.convert", arguments, says, files=files or {})


NAMED = json.dumps({"a\x1b[31m.b": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}})
HUGE = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2], "data_offsets": [0, 16]}})

CONVERSIONS = (
    _convert(says=("ACTION = None: one of inspect, import, export",)),
    _convert("inpect", "x", says=("ACTION = 'inpect'", "did you mean 'inspect'?")),
    _convert("\x1b[31m", says=(r"ACTION = '\x1b[31m'",)),
    _convert("inspect", says=("PATH = None: give a file",)),
    _convert("inspect", "none.pth", says=("FILE = 'none.pth'", "no such file")),
    _convert("inspect", LONG, says=("FILE = 'xxx", "no such file")),
    _convert("inspect", "README.md", says=("FILE = 'README.md'", "is none of .pth")),
    _convert("inspect", "/dev/zero", says=("FILE = '/dev/zero'", "no such file")),
    _convert("import", "x.pth", says=("--out = None: give where",)),
    _convert("export", "x", "--out=y.pth", says=("--layout = None: give torchvision or timm",)),
    _convert("export", "x", "--out=y.pth", "--layout=facebook", says=("--layout = 'facebook'",)),
    _convert("export", "x", "--out=README.md", "--layout=timm", says=("--out = ", "end it with")),
    _convert(
        "export", "docs", "--out={dir}/y.pth", "--layout=timm", says=("DIR = ", "no checkpoint")
    ),
    _convert(
        "export",
        "docs",
        "--out=/dev/full/y.pth",
        "--layout=timm",
        says=("--out = ", "cannot be written"),
    ),
    _convert(
        "export",
        "docs",
        "--out={dir}/" + "y" * 252 + ".pth",
        "--layout=timm",
        says=("--out = ", "cannot be written"),
    ),
    _inspect("a.pth", pickle.dumps(Evil()), "a.pth'"),
    _inspect("a.pth", "", "cannot be read"),
    _inspect("a.pth", b"\x80\x02" + b"(" * 100_000 + b"t.", "cannot be read"),
    _inspect("a.pth", b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".", "holds more than weights"),
    _inspect("a.pth", _bomb, "is compressed, and holds 268435"),
    _inspect("a.pth", lambda path: path.mkdir(), "no such file"),
    _inspect("a.pth", link("a.pth"), "no such file"),
    _inspect("a.safetensors", "", "cannot be read"),
    _inspect("a.safetensors", _safetensors(b"{}", 2**63), "cannot be read"),
    _inspect("a.safetensors", _safetensors(b"[" * 100_000), "cannot be read"),
    _inspect("a.safetensors", _safetensors(HUGE.encode()), "cannot be read"),
    _inspect("a.safetensors", _safetensors(NAMED.encode()), "no network of ours"),
)


def _folder(*says: str, files: Mapping[str, Content], more: tuple[str, ...] = ()) -> Case:
    """A folder of pictures with classes a and b."""
    fields = (
        "data.name=folder",
        "data.data_dir={dir}",
        "data.image_size=32",
        "forget.classes=0",
        *more,
    )
    arguments = (
        "--config=configs/default.py",
        f"--workdir={NEW}",
        *(f"--config.{f}" for f in fields),
    )
    names = [
        f"{part}/{label}/{i}.png" for part in ("train", "val") for label in "ab" for i in "012"
    ]
    known = dict.fromkeys(names, _png)
    return Case("ec_jax.main", arguments, says, files=known | dict(files))


def _png(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (40, 40)).save(path)


PICTURES = (
    _folder(r"the class 'c\x1b[31m' cannot be printed", files={"train/c\x1b[31m/0.png": _png}),
    _folder(r"the class 'c\nd' cannot be printed", files={"train/c\nd/0.png": _png}),
    _folder("val/c is no class of train", files={"val/c/0.png": _png}),
    _folder(
        "data.resize = 256: a cut of 2147483647 pixels",
        more=("data.image_size=2147483647",),
        files={},
    ),
)

CALL = """
import jax, numpy as np, flax.linen as nn
import ec_jax
from ec_jax import command
class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name='one')(x)
        return nn.Dense(3, name='head')(x.mean((1, 2)))
net, images = Net(), np.zeros((6, 8, 8, 1), np.uint8)
variables = net.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
given = dict(forget=(images, np.zeros(6, int)), retain=(images, np.ones(6, int)))
given['points'] = ('one', 'head')
command.finish(lambda: ec_jax.unlearn(net, variables, **given | dict(CHANGES)))
"""


def _call(changes: str, *says: str, files: Mapping[str, Content] | None = None) -> Case:
    """``ec_jax.unlearn`` with other arguments; what it raises ends as a command does."""
    return Case("-c", (CALL.replace("CHANGES", changes),), says, files=files or {})


CALLS = (
    _call("method='ecc'", "method = 'ecc': did you mean 'ec'?"),
    _call("method='../../x:y'", "method = '../../x:y'"),
    _call("settings={'ec.temprature': 1}", "ec.temprature = 1: no such field; did you mean"),
    _call("settings={'ec.temperature': float('nan')}", "ec.temperature = nan: give a number > 0"),
    _call(
        "settings={'data.name': '../../etc'}", "data.name = '../../etc': is given by the arguments"
    ),
    _call("points=('../x',)", "points = ", "'../x'"),
    _call("oracle='\\x1b'", r"oracle = '\x1b': give variables"),
    _call("workdir='{dir}'", "holds files that are no call's", files={"thesis.tex": "mine"}),
    _call("workdir='{dir}/a'", "workdir = ", "cannot be written", files={"a": link("a")}),
)

RUNNERS = (
    Case("benchmarks.run", ("speed",), ("NAME = 'speed': no benchmark",)),
    Case("benchmarks.run", ("--smok",), ("--smok = None: no such flag; did you mean '--smoke'?",)),
    Case("docs.publish", ("digits",), ("WORKDIR = None: give",)),
    Case("docs.publish", ("../../x", "runs"), ("SCENARIO = '../../x'",)),
)


def _preflight(*flags: str, says: tuple[str, ...]) -> Case:
    return Case("ec_jax.preflight", (DIGITS, *flags), says)


V5E = "--topology=v5e:2x2"
PREFLIGHTS = (
    _preflight(says=("--topology = None", "--topology=v5e:2x4")),
    _preflight("--topology=v5e:2x3", says=("--topology = 'v5e:2x3'", "did you mean 'v5e:2x")),
    _preflight("--topology=gpu", says=("--topology = 'gpu'", "did you mean")),
    _preflight("--topology=../../x", says=("--topology = '../../x'", "did you mean")),
    _preflight(
        "--topology=v5e:8x16", says=("data.batch_size = 64", "not divisible by 128 devices")
    ),
    _preflight(V5E, "--batches_for=0", says=("--batches_for = '0'", "--batches_for=8")),
    _preflight(V5E, "--batches_for=3", says=("--batches_for = '3'", "data.batch_size")),
    _preflight(V5E, "--json=configs", says=("--json = 'configs'", "give a file")),
    _preflight(V5E, "--json=README.md/x", says=("--json", "cannot be written")),
    _preflight(V5E, "--text=README.md", says=("--text = 'README.md'", "give a folder")),
    _preflight(V5E, "--text=README.md/x", says=("--text", "cannot be written")),
    _preflight(V5E, "--config.parallel.devices=8", says=("parallel.devices = 8", "4 chips")),
    _preflight(V5E, "--config.model.depth=7", says=("model.depth = 7",)),
)


def _verify(text: str | None, *says: str) -> Case:
    files = {} if text is None else {"events.jsonl": text}
    return Case("ec_jax.audit", ("--verify={dir}",), ("--verify = ", *says), files=files)


VERIFICATIONS = (
    Case("ec_jax.audit", ("--verify",), ("--verify = None: ",)),
    Case("ec_jax.audit", ("--verify=/no/such",), ("--verify = '/no/such'", "holds no events")),
    Case("ec_jax.audit", ("--verify={dir}", "--x=1"), ("--x = '1': no such flag",)),
    _verify(None, "holds no events.jsonl; give the workdir of a run"),
)

MANY = "--config.parallel.coordinator=auto"
RATE = "unlearn.optimizer.learning_rate"
PROCESSES = (
    _field("parallel.coordinator=auto:x", "'auto:x'"),
    _field("parallel.processes=2", "2"),
    _main((DIGITS, MANY, "--config.forget.classes=3;5"), "a sequence of requests runs in one"),
    Case(
        "ec_jax.sweep",
        (DIGITS, MANY, f"--workdir={NEW}", "--sweep=configs/sweeps/methods.py"),
        ("parallel.coordinator = 'auto': a grid runs in one process",),
    ),
    Case(
        "ec_jax.tune",
        (DIGITS, MANY, f"--workdir={NEW}"),
        ("parallel.coordinator = 'auto': a search runs in one process",),
    ),
)


def _launch(name: str, *arguments: str, says: tuple[str, ...]) -> Case:
    return Case(f"launch/{name}.py", arguments, says)


NEW_RUN = ("--", DIGITS, f"--workdir={NEW}")
GRID = (*NEW_RUN, f"--config.{RATE}=0.01,1e30", "--seeds=0")
LAUNCHERS = (
    _launch("local_pod", "--processes=0", *NEW_RUN, says=("--processes = 0: at least 1",)),
    _launch("local_pod", "--devices=-1", *NEW_RUN, says=("--devices = -1: at least 1",)),
    _launch(
        "local_pod", "--device=2", says=("--device = '2': no such flag; did you mean '--devices'?",)
    ),
    _launch("local_pod", "--processes=2", says=("-- = None: give flags of ec_jax.main after --",)),
    _launch("slurm", "--nodes=0", *NEW_RUN, says=("--nodes = 0: at least 1",)),
    _launch("slurm", "--time=4", *NEW_RUN, says=("--time = 4: at least 5",)),
    _launch("slurm", "--time=soon", *NEW_RUN, says=("--time = 'soon': invalid int value: 'soon'",)),
    _launch("slurm", "--partitoin=a", *NEW_RUN, says=("--partitoin = 'a': no such flag; did you",)),
    _launch("slurm", "--set=account", *NEW_RUN, says=("--set = 'account': give a flag of sbatch",)),
    _launch("slurm", "--dry-run", says=("-- = None: give flags of ec_jax.main after --",)),
    _launch("slurm", "--dry-run", "--", DIGITS, says=("--workdir = None: give a folder",)),
    _launch(
        "slurm",
        "--dry-run",
        *NEW_RUN,
        "--config.ec.temperature=0",
        says=("ec.temperature = 0.0: give a number > 0",),
    ),
    _launch("sweep", says=("-- = None: give flags of ec_jax.sweep after --",)),
    _launch("sweep", "--on=slrum", *GRID, says=("--on = 'slrum': invalid choice: 'slrum'",)),
    _launch("sweep", "--jobs=0", *GRID, says=("--jobs = 0: at least 1",)),
    _launch("sweep", "--with=--time=3", *GRID, says=("--with = '--time=3': is for --on=slurm",)),
    _launch("sweep", "--on=tpu_pod", *GRID, says=("--with = '': give --name=NAME once",)),
    _launch("sweep", *GRID, "--only=plan", says=("--only = '--only=plan': is for the jobs",)),
    _launch("sweep", *GRID, f"--config.{RATE}=3", says=(f"{RATE} = '0.01,1e30': given twice",)),
    _launch("sweep", *GRID, "--only", "plan", says=("--only = '--only': is for the jobs",)),
    _launch("sweep", "--", DIGITS, says=("--workdir = None: give a folder",)),
    _launch("sweep", *NEW_RUN, f"--config.{RATE}=1,x", says=(f"{RATE} = 'x': give a number",)),
    _launch(
        "sweep", *NEW_RUN, f"--config.{RATE}=1,1.0", says=(f"{RATE} = '1,1.0': holds a value",)
    ),
    _launch(
        "sweep", *NEW_RUN, f"--config.{RATE}=1,-1", says=(f"{RATE} = -1.0: give a number > 0",)
    ),
    _launch(
        "sweep",
        *NEW_RUN,
        "--config.method=ec,mine:build",
        says=("--sweep = 'method=mine:build': cannot be a row's name",),
    ),
)

TPU = ("--name=ec", "--zone=here-a", "--type=v5litepod-16")


def _tpu(*arguments: str, says: str) -> Case:
    return Case("launch/tpu_pod.sh", arguments, (says,))


LAUNCHERS += (
    _tpu(says="--name: give it, e.g. --name=ec"),
    _tpu(*TPU[:2], says="--type: give it"),
    _tpu(*TPU, "--retries=x", *NEW_RUN, says="--retries = 'x': give an integer >= 0"),
    _tpu(*TPU, "--sopt", *NEW_RUN, says="--sopt: no such flag, or no value; see --help"),
    _tpu(
        *TPU,
        "--module=os",
        *NEW_RUN,
        says="--module = 'os': give ec_jax.main or ec_jax.sweep",
    ),
    _tpu(*TPU, "--", "--config=x", says="--workdir: give it after --"),
    _tpu(*TPU, "--", "--workdir=gs://a/b", says="--workdir = 'gs://a/b': is no folder; mount it"),
)

CASES = (*FIELDS, *FLAGS, *CONFIGS, *WORKDIRS, *PICTURES, *GRIDS, *COMPARISONS, *AUDITS)
CASES += (*CONVERSIONS, *CALLS, *RUNNERS, *PREFLIGHTS, *VERIFICATIONS, *PROCESSES, *LAUNCHERS)
