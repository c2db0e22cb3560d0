"""A stand-in for Google's ``gcloud``: it records what it is asked and plays one TPU.

What happens is in the file STATE beside it: the TPU's state; one for each run that is started, its
exit status with the state that the TPU is in afterwards; and whether each look at it is answered.
"""

import json
import os
import subprocess
import sys
from pathlib import Path


def main(argv):
    here = Path(os.environ["GCLOUD"])
    state = json.loads((here / "STATE").read_text())
    with open(here / "LOG", "a") as log:
        log.write(json.dumps(argv) + "\n")
    assert argv[:3] == ["compute", "tpus", "tpu-vm"]
    status = play(argv[3], argv[4:], state, here)
    (here / "STATE").write_text(json.dumps(state))
    sys.exit(status)


def play(verb, rest, state, here):
    if verb == "describe" and "--format=value(networkEndpoints.len())" in rest:
        print(state.get("machines", 1))
    elif verb == "describe" and state.get("answers") and not state["answers"].pop(0):
        return says("ERROR: (gcloud) network is unreachable", 1)
    elif verb == "describe" and state["is"] == "UNKNOWN":
        return says("ERROR: (gcloud) PERMISSION_DENIED: who are you?", 1)
    elif verb == "describe" and not state["is"]:
        return says("ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: no such TPU", 1)
    elif verb == "describe":
        print(state["is"], flush=True)
        return says("Updates are available for some components.", 0)
    elif verb == "create":
        assert not state["is"], "the name is taken"
        if state.get("full"):
            return says("ERROR: no more capacity", 1)
        state["is"] = "READY"
    elif verb == "delete":
        assert state["is"]
        state["is"] = ""
    elif verb == "ssh":
        assert state["is"] == "READY"
        (command,) = (f.removeprefix("--command=") for f in rest if f.startswith("--command="))
        if "run.pid" in command:
            return run(command, state, here)
        if command.startswith("exit "):  # a setup that fails
            return int(command.removeprefix("exit "))
    return 0


def run(command, state, here):
    """The run itself is a real one of the shell, in a home folder with a Python that records."""
    subprocess.run(["bash", "-c", command], cwd=here / "home", check=True)
    status, state["is"] = state["runs"].pop(0)
    return status


def says(line, status):
    print(line, file=sys.stderr)
    return status


if __name__ == "__main__":
    main(sys.argv[1:])
