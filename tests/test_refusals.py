"""Every case of the table: one line on stderr, its exit status, and nothing left behind."""

import json
import re
import subprocess

import forks
import pytest
from refusals import CASES, ROOT

from docs import refusals as refusals_page
from ec_jax.errors import printable

LONGEST = 2100  # characters of the line


def _there(folder):
    """{path: size and time} of all that is in a folder; a link is not followed."""
    return {p: (s.st_size, s.st_mtime_ns) for p in folder.rglob("*") if (s := p.lstat())}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """[(case, parts of its line, what it said, its folder before and after)]."""
    top = tmp_path_factory.mktemp("refusals")
    calls, about = [], []
    for i, case in enumerate(CASES):
        folder = top / str(i)
        folder.mkdir()
        arguments, says = case.placed(folder)
        calls.append({"module": case.module, "arguments": arguments, "cwd": str(ROOT)})
        about.append((says, folder, _there(folder)))
    found = forks.run(calls)
    return [
        (case, says, done, before, _there(folder))
        for case, (says, folder, before), done in zip(CASES, about, found, strict=True)
    ]


def _title(i):
    return re.sub(
        r"[^ -~]|[/{}]", ".", f"{i} {CASES[i].module} {' '.join(CASES[i].arguments)}"[:90]
    )


@pytest.mark.parametrize("i", range(len(CASES)), ids=_title)
def test_it_is_refused_in_one_line_and_nothing_is_left(i, results):
    case, says, done, before, after = results[i]
    line = done["err"].removesuffix("\n")
    assert done["status"] == case.status, done
    assert done["out"] == ""
    assert line.startswith("error: "), done["err"][-2000:]
    assert line.isprintable(), line
    assert len(line) <= LONGEST
    rest = line
    for part in says:
        assert part in rest, (part, line)
        rest = rest.partition(part)[2]
    assert after == before


@pytest.mark.slow
def test_a_process_of_its_own_says_the_same(results, tmp_path):
    for i in range(0, len(CASES), 24):
        case, _, done, _, _ = results[i]
        folder = tmp_path / str(i)
        folder.mkdir()
        arguments, says = case.placed(folder)
        alone = subprocess.run([*case.start, *arguments], capture_output=True, text=True, cwd=ROOT)
        assert (alone.returncode, alone.stdout) == (done["status"], done["out"])
        assert alone.stderr.startswith("error: ")
        assert alone.stderr.count("\n") == 1
        assert all(part in alone.stderr for part in says)


def test_the_page_shows_every_case():
    found = json.loads(refusals_page.FILE.read_text())
    assert refusals_page.PAGE.read_text(encoding="utf-8") == refusals_page.page(found)
    for case, shown in zip(CASES, found["cases"], strict=True):
        assert shown["status"] == case.status
        for part in case.says:
            assert printable(part.replace("{dir}", "DIR")) in shown["line"]
        assert shown["command"] == (case.module if case.module != "-c" else "ec_jax.unlearn")
