"""Run a command on GPUs that nobody else of this workflow uses: ``with-gpus N COMMAND ...``.

A scheduler such as Slurm gives every job its GPUs and says so in CUDA_VISIBLE_DEVICES.  Snakemake alone only counts
them; here every GPU of the machine has a lock that is held for as long as the command runs.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from companion.plainly import Refusal, group_of
from narrowlib.store.files import lock_of

VARIABLE = "CUDA_VISIBLE_DEVICES"
LOCKS = Path(tempfile.gettempdir()) / "narrowlib-gpus"
CUDA_13_DRIVER = 580
PAUSE = 1.0  # seconds between two looks for a free one


def gpus() -> list[str]:
    """Names of the GPUs that this process may use."""
    if VARIABLE in os.environ:
        return [name for name in os.environ[VARIABLE].split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def claimed(n_wanted: int, there: list[str], folder: Path, pause: float) -> dict[str, FileLock]:
    """Held locks of so many GPUs, by their names; waits until they are free.

    Raises
    ------
    Refusal
        When there are fewer.
    """
    if n_wanted > len(there):
        raise Refusal(f"gpus is {n_wanted}; it must be at most {len(there)}, the number available")
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # of another user, who has done it
        folder.chmod(0o1777)
    while True:
        held: dict[str, FileLock] = {}
        for name in there:
            lock = lock_of(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            held[name] = lock
            if len(held) == n_wanted:
                return held
        for lock in held.values():  # too few: another may need just these
            lock.release()
        time.sleep(pause)


def main(arguments: list[str]) -> int:
    n_wanted, command, there = int(arguments[0]), arguments[1:], gpus()
    if not there or (VARIABLE in os.environ and len(there) == n_wanted):  # on a CPU, or given to this job
        return _exit_code(command)
    with ExitStack() as stack:
        held = claimed(n_wanted, there, LOCKS, PAUSE)
        for lock in held.values():
            stack.callback(lock.release)
        return _exit_code(command, os.environ | {VARIABLE: ",".join(held)})


def _exit_code(command: list[str], env: Mapping[str, str] | None = None) -> int:
    with group_of(command, env=env) as process:  # a GPU whose lock is gone computes no more
        return process.wait()


def name_gpu(_: list[str]) -> int:
    """Say which GPU torch uses and with which driver, and compile for it; a sentence where that cannot be."""
    import torch

    driver, needed = driver_version(), torch.version.cuda or ""
    if driver and needed.startswith("13.") and int(driver.split(".")[0]) < CUDA_13_DRIVER:
        raise Refusal(
            f"the driver is {driver}; torch {torch.__version__} is built for CUDA {needed}, "
            f"which needs R{CUDA_13_DRIVER} or newer"
        )
    if not torch.cuda.is_available():
        seen = f", although the driver {driver} is installed (is this a CPU build of torch?)" if driver else ""
        raise Refusal(f"torch finds no usable GPU{seen}")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "driver", driver or "unknown")
    print(f"CUDA {needed or 'unknown'}; CUDA 13 needs driver R{CUDA_13_DRIVER} or newer")
    try_compilation()
    return 0


def driver_version() -> str | None:
    """Of the NVIDIA driver; None where there is none."""
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said and said[0][0].isdigit() else None


def try_compilation() -> None:
    """Compile and run one small function on the GPU."""
    import torch

    from narrowlib.llm.compilation import check_compiler

    try:
        check_compiler(torch.device("cuda"))
        found = torch.compile(lambda x: (x * 2 + 1).relu())(torch.ones(8, device="cuda")).sum().item()
    except Exception as error:
        raise Refusal(f"nothing can be compiled for this GPU: {str(error).splitlines()[0]}") from error
    print(f"a compiled function gave {found:g}, of 24")
