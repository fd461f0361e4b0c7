"""Settings of a narrowing, the same for the function, the flags of the command and its YAML file."""

from __future__ import annotations

import math
import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from narrowlib.data.documents import SKILLS
from narrowlib.llm.settings import VARIANTS, WITHOUT_DATA, Benchmarks, LLMTrainingConfig
from narrowlib.settings import (
    AutoPrecision,
    Count,
    Device,
    NotNegative,
    Part,
    Positive,
    Seed,
    Settings,
    Weight,
    Whole,
    Words,
)

FURTHEST = 0.9  # sparsity that a target_loss without a sparsity goes up to
N_RECORDS, N_CHECKPOINTS = 8, 4  # of every training
TRAINED_AT_ONCE = 4  # blocks through the model in training
NUMBERS, PAGE, CARD = "report.json", "report.html", "README.md"  # files beside the weights of a result
TABLE, FIGURE = "sweep.csv", "sweep.svg"  # and beside the results of a sweep
FORMS = f"a file, a folder, - for standard input, a data set on the hub (OWNER/NAME), or one of {', '.join(SKILLS)}"
GROUPS = {  # of the flags, by the first of each
    "keep": "documents and model",
    "units": "what is cut",
    "method": "how units are ranked",
    "finetune_tokens": "training",
    "held_out_share": "measuring",
    "seed": "running",
}
HOW_MUCH = ("sparsity", "target_parameters", "target_loss")  # is cut; a sweep says it itself
REPEATED = ("keep", "lose", "include", "exclude")  # flags that may be given several times, and lists in YAML
_TEXTS = {*REPEATED, "model", "column", "eval"}
_OF_RESULT = {"dtype", "gguf", "eval", "eval_limit", "samples"}
_OF_CUT = {"units", "sparsity", "multiple_of", "target_parameters", "target_loss", "method", "lose_weight", "rounds"}
_OF_CUT |= {"score_tokens"}
_OF_TRAINING = {"finetune_tokens", "lasso_tokens", "lasso_strength", "recovery_tokens", "distillation", "temperature"}
_OF_TRAINING |= {"learning_rate", "warmup_share", "batch_size", "precision", "refit"}
_SUFFIXES = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "%": 0.01}
_SUFFIXED = re.compile(r"(?<![\w.])(\d+\.?\d*|\.\d+)([kmgb%])(?!\w)", re.I)
AtLeastTwo = Annotated[int, Field(ge=2)]


class RecipeConfig(Settings):
    """What to narrow, to which size, and how; each field has a description."""

    keep: str = Field(
        "", description=f"text the model should stay good at: {FORMS}; repeat for several; notes=2 counts double"
    )
    lose: str = Field("", description="text it may lose, in the same forms; its loss is reported; empty for none")
    include: str = Field(
        "",
        description=r"patterns of files to include in a folder, as in .gitignore, '\ ' for a space; empty for all",
    )
    exclude: str = Field("", description="patterns of files to leave out of a folder, such as tests/")
    model: str = Field("default", description="default, a folder, or a name on the Hugging Face hub")
    column: str = Field("", description="column of the text in tabular files; empty for text, content or code")
    units: Words[Literal["neurons", "residual", "heads"]] = Field(("neurons",), description="kinds of units to cut")
    sparsity: tuple[Part, ...] = Field((), description="share of the units to cut: one number per kind, or one for all")
    multiple_of: Count | None = Field(
        None,
        description="neurons and residual dimensions left are multiples of this, and of what the heads require; "
        "empty for 64, or less in a small model",
    )
    target_parameters: Count | None = Field(
        None, description="cut equal shares until at most this many parameters are left; not with sparsity"
    )
    target_loss: Positive | None = Field(
        None, description="highest loss on the kept text, nats per token; needs several rounds"
    )
    method: Literal[VARIANTS] = Field("absolute per token", description="score that ranks the units")
    lose_weight: NotNegative = Field(
        0.0, description="weight with which a unit's score on the lose text is subtracted; try 0.2 first"
    )
    rounds: Count = Field(1, description="number of equal cuts, with new scores and part of the recovery after each")
    score_tokens: AtLeastTwo = Field(16_384, description="tokens for the scores and the refit")
    refit: Literal["auto", "on", "off"] = Field(
        "auto",
        description="least-squares refit of the weights that read kept units, after a cut; auto: if it lowers the loss",
    )
    finetune_tokens: Whole = Field(0, description="training tokens on the kept text before the first cut")
    lasso_tokens: Whole = Field(0, description="training tokens with group lasso before the cut")
    lasso_strength: NotNegative = Field(0.0, description="strength of the group lasso; needs lasso_tokens")
    recovery_tokens: Whole = Field(262_144, description="training tokens after the cut, over all rounds")
    distillation: Weight = Field(0.0, description="weight of distillation from the uncut model in recovery")
    temperature: Positive = Field(2.0, description="temperature of this distillation")
    learning_rate: Positive = Field(3e-4, description="step size of AdamW in all training")
    warmup_share: Weight = Field(0.05, description="share of the training steps over which the step size rises")
    batch_size: Count = Field(8, description="blocks per optimiser step")
    block_length: AtLeastTwo = Field(512, description="tokens per block")
    precision: AutoPrecision = Field(
        "auto", description="precision of matrix products; auto: bfloat16 where it is fast"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="type of the written weights, in which losses are measured; auto: the input's type",
    )
    gguf: Literal["", "f32", "f16", "bf16", "q8_0"] = Field(
        "", description="also write the result as a GGUF file for llama.cpp, with matrices of this type; empty for none"
    )
    held_out_share: Part = Field(
        0.1,
        description="share of the documents held out for the losses of the report; as many again serve for selection",
    )
    held_out_tokens: AtLeastTwo = Field(8_192, description="largest number of held-out tokens per loss")
    eval: Benchmarks = Field(
        "", description="lm-eval tasks whose accuracy is reported before and after, such as arc_easy; empty for none"
    )
    eval_limit: Count | None = Field(None, description="number of questions per task, from the first; empty for all")
    samples: Whole = Field(
        1, description="held-out documents per text that both models continue in the report; 0 for none"
    )
    seed: Seed = Field(0, description="seed of the split, the order of blocks and random scores")
    device: Device = Field("auto", description="where to run")

    @field_validator(*REPEATED, mode="before")
    @classmethod
    def _one_per_line(cls, given: Any) -> Any:
        is_list = isinstance(given, (list, tuple)) and all(isinstance(each, str) for each in given)
        return "\n".join(given) if is_list else given

    @field_validator("*", mode="before")
    @classmethod
    def _with_suffixes(cls, given: Any, info: ValidationInfo) -> Any:
        """``1M`` and ``16k`` as whole numbers, ``50%`` as a share."""
        if info.field_name in _TEXTS or not isinstance(given, str):
            return given
        return _SUFFIXED.sub(lambda m: f"{float(m[1]) * _SUFFIXES[m[2].lower()]:.12g}", given)

    @model_validator(mode="after")
    def _goes_together(self) -> RecipeConfig:
        given = [bool(self.sparsity), self.target_parameters is not None, self.target_loss is not None]
        n_shares, n_kinds = len(self.sparsity), len(self.units)
        faults = [
            (not self.keep.strip(), f"keep is missing; it must name {FORMS}"),
            (not any(given), "sparsity, target_parameters and target_loss are all missing; one must be given"),
            (all(given[:2]), "sparsity and target_parameters are both given; one must be left out"),
            (
                n_shares not in (0, 1, n_kinds),
                f"sparsity holds {n_shares} numbers for {n_kinds} kinds of units; it must hold one for each or for all",
            ),
            (
                given[2] and self.rounds < 2,
                f"rounds is {self.rounds}; with a target_loss it must be at least 2",
            ),
            (
                (self.lasso_tokens > 0) != (self.lasso_strength > 0),
                f"lasso_tokens is {self.lasso_tokens}, lasso_strength {self.lasso_strength}; set both or neither",
            ),
            (
                self.lose_weight > 0 and (not self.lose.strip() or self.method in WITHOUT_DATA),
                f"lose_weight is {self.lose_weight}; it needs lose, and a method that uses data",
            ),
        ]
        for is_faulty, sentence in faults:
            if is_faulty:
                raise ValueError(sentence)
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Sparsity of every kind after the last round, if a sparsity is requested."""
        sparsity = self.sparsity or (FURTHEST,)
        return dict(zip(self.units, sparsity * len(self.units) if len(sparsity) == 1 else sparsity, strict=True))

    @property
    def trains_whole(self) -> bool:
        """Whether the model is trained before its last cut."""
        return bool(self.finetune_tokens or self.lasso_tokens or self.rounds > 1)

    @property
    def lasting(self) -> dict[str, Any]:
        """Settings that determine the result, as json stores them; the device is not among them."""
        return self.model_dump(mode="json", exclude={"device"})

    @property
    def command(self) -> str:
        """The command with these settings, without ``--out``."""
        words, defaults = ["narrow", "run"], {row.name: row.default for row in self.parameters_table()}
        for name, value in self.to_parameters().items():
            if value != defaults[name]:
                for each in str(value).splitlines() if name in REPEATED else [str(value)]:
                    words += [f"--{name.replace('_', '-')}", each]
        return shlex.join(words)

    @property
    def n_trained(self) -> int:
        """Tokens of all trainings."""
        return self.finetune_tokens + self.lasso_tokens + self.recovery_tokens

    def needs(self, name: Literal["keep", "lose"]) -> dict[str, int]:
        """Most tokens of each split that a narrowing needs, of the text to keep or the text it may lose."""
        n_read = {"select": self.held_out_tokens, "held-out": self.held_out_tokens}
        return {"train": self.score_tokens if name == "lose" else max(self.score_tokens, self.n_trained), **n_read}

    def deciding(self, step: str) -> dict[str, Any]:
        """Settings that a step before the result depends on, as json stores them.

        Losses before do not depend on what is cut and trained, nor does a first cut on training, where nothing was
        trained before it.
        """
        without = set(_OF_RESULT)
        if step == "before":
            without |= {*_OF_CUT, *_OF_TRAINING}
        elif step == "cut-1" and not (self.finetune_tokens or self.lasso_tokens):
            without |= _OF_TRAINING
        return {name: value for name, value in self.lasting.items() if name not in without}

    def training(self, n_tokens: int, seed: int = 0) -> LLMTrainingConfig:
        """A training over this many tokens, in whole steps."""
        n_steps = max(1, math.ceil(n_tokens / (self.batch_size * self.block_length)))
        return LLMTrainingConfig(
            n_steps=n_steps,
            learning_rate=self.learning_rate,
            n_warmup=round(self.warmup_share * n_steps),
            batch_size=self.batch_size,
            micro_batch_size=math.gcd(self.batch_size, TRAINED_AT_ONCE),
            precision=self.precision,
            seed=self.seed + seed,
            record_every=math.ceil(n_steps / N_RECORDS),
            checkpoint_every=math.ceil(n_steps / N_CHECKPOINTS),
        )
