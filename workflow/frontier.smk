# The record of the chapter llm-frontier, every training a job of its own with one GPU (or `gpus` of them):
#
#   snakemake -s workflow/frontier.smk --cores 16 --resources gpu=2                      two GPUs of this machine
#   snakemake -s workflow/frontier.smk --workflow-profile workflow/profiles/slurm        a cluster
#   ... --config gpus=4                                                                  each training on four GPUs
#   ... --config profile=quick set="checkpoints=_build/checkpoints" folder=_build/tried  to try it
#
# A finished training is kept in the folder of the checkpoints, and an empty file there says so to Snakemake; a training
# that was killed goes on from its last checkpoint.
import shlex
import sys

from companion import record

from narrowlib.chapters.frontier.config import Config, runs_of
from narrowlib.chapters.frontier.experiment import table_name, tables
from narrowlib.store.digests import closure_of, digest_of

CHAPTER = "llm-frontier"
PROFILE, SET = config.get("profile", "paper"), config.get("set", "")
RESULTS = config.get("folder", "results/paper")
N_GPUS = int(config.get("gpus", 1))
VALUES = record.all_parameters(CHAPTER, PROFILE, SET)
if not VALUES["checkpoints"]:
    raise ValueError("checkpoints is empty; set=\"checkpoints=FOLDER\" names where finished trainings are kept")
SETTINGS = Config.from_parameters(VALUES)
PIECES = Path(SETTINGS.checkpoints) / f"frontier-{digest_of(SETTINGS.asked, closure_of(tables))}"

PYTHON = shlex.quote(sys.executable)
LAUNCHER = f"{PYTHON} -m torch.distributed.run --standalone --nproc-per-node={N_GPUS}" if N_GPUS > 1 else PYTHON
ON_GPUS = f"{PYTHON} -m companion with-gpus"
RECORD = f"-m companion record {CHAPTER} --profile {shlex.quote(PROFILE)} --set={shlex.quote(SET)}"

wildcard_constraints:
    run="[a-z0-9_-]+",

rule collect:
    input:
        [PIECES / f"{run.name}.done" for run in runs_of(SETTINGS)],
    output:
        f"{RESULTS}/{CHAPTER}/{table_name(SETTINGS)}.parquet",
    resources:
        gpu=1,  # which the record names
    shell:
        "{ON_GPUS} 1 {PYTHON} {RECORD} --folder {RESULTS}"

rule prepare:
    output:
        touch(PIECES / "prepared"),
    resources:
        gpu=1,
    shell:
        "{ON_GPUS} 1 {PYTHON} {RECORD} --piece prepare"

rule train:
    input:
        ancient(PIECES / "prepared"),
    output:
        touch(PIECES / "{run}.done"),
    resources:
        gpu=N_GPUS,
    shell:
        "{ON_GPUS} {N_GPUS} {LAUNCHER} {RECORD} --piece {wildcards.run}"
