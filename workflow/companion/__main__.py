"""One command for the whole workflow: ``python -m companion COMMAND ...``."""

import sys
from importlib import import_module

from companion import plainly, surroundings

COMMANDS = {  # which function of which module takes the arguments and returns an exit code
    "book": "build.main",
    "run": "execute.main",
    "record": "record.main",
    "records": "night.main",
    "gpu": "with_gpus.name_gpu",
    "gpu-queue": "gpu_queue.main",
    "with-gpus": "with_gpus.main",
    "site": "site.main",
    "serve": "serve.main",
    "pdf": "pdf.main",
    "notebooks": "notebooks.main",
    "course": "course.main",
    "grade": "grade.main",
    "branch": "publish.branch",
    "archive": "publish.archive",
    "release": "publish.release",
    "propose": "publish.propose",
    "clean-cache": "clean_cache.main",
    "prune": "clean_cache.prune",
}


def main(arguments: list[str]) -> int:
    """Exit code of a command."""
    name, *rest = arguments or [""]
    if name not in COMMANDS:
        print(f"the command is {name!r}; it must be one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv[0] = f"companion {name}"  # as the help of the command calls it
    module, function = COMMANDS[name].split(".")

    def run() -> int:
        surroundings.use_folders()
        return getattr(import_module(f"companion.{module}"), function)(rest)

    return plainly.run(run)


if __name__ == "__main__":
    surroundings.start_anew()
    sys.stdout.reconfigure(errors="backslashreplace")  # a console of Windows knows few characters
    sys.exit(main(sys.argv[1:]))
