"""Configurations: what a text is read as, the sentences of errors, and where values come from."""

from __future__ import annotations

import argparse
import pickle
from typing import Annotated, Literal

import nbformat
import papermill
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from narrowlib.settings import (
    AutoPrecision,
    Count,
    Numbers,
    Pairs,
    Rate,
    Seed,
    Settings,
    SettingsError,
    Share,
    Words,
    add_flags,
    part,
    read_yaml,
)


class Lasso(Settings):
    n_steps: Annotated[int, Field(ge=1, le=100)] = 5
    learning_rate: Rate = 1e-3
    precision: AutoPrecision = "float32"
    n_records: Count = 1


class Config(Settings):
    n_seeds: Count = Field(4, description="runs of every setting")
    width: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    learning_rate: Rate = Field(3e-3, description="step size, 100% of it")
    target: Share | None = None
    methods: Words[Literal["random", "lasso"]] = ("random",)
    sparsities: Pairs[Share] = Field("0.5/0.2 0.8/0.5", description="of neurons/residual dimensions")
    neurons: Numbers[Count] = (30, 50)
    strengths: Numbers[float] = (1e-3,)
    units: tuple[str, ...] = ()
    compiled: bool = False
    precision: AutoPrecision = "float32"
    checkpoints: str = ""
    lasso_steps: int = 4
    seed: Seed = 0

    @model_validator(mode="after")
    def _width_holds_neurons(self) -> Config:
        if max(self.neurons) > self.width:
            raise ValueError(f"neurons holds {max(self.neurons)}; the width {self.width} is all there are")
        return self

    @part
    def lasso(self) -> Lasso:
        return self.build(Lasso, {"n_steps": "lasso_steps"}, n_records=2)


LEGAL = "n_seeds, width, learning_rate, target, methods, sparsities, neurons, strengths, units, compiled, precision, "
LEGAL += "checkpoints, lasso_steps, seed"
REFUSED = [
    ({"n_seeds": 0}, "n_seeds is 0; it must be a whole number of at least 1"),
    ({"n_seeds": True}, "n_seeds is True; it must be a whole number of at least 1"),
    ({"n_seeds": "3.5"}, "n_seeds is '3.5'; it must be a whole number of at least 1"),
    ({"width": 7}, "width is 7; it must be a whole number of at least 2 and divisible by 2"),
    ({"learning_rate": "0"}, "learning_rate is 0.0; it must be a number above 0 and at most 1"),
    ({"learning_rate": "nan"}, "learning_rate is nan; it must be a number above 0 and at most 1"),
    ({"strengths": "1 inf"}, "strengths holds inf; it must hold numbers, each once"),
    ({"target": 1}, "target is 1; it must be a number of at least 0 and below 1, or none"),
    ({"methods": "random laso"}, "methods holds 'laso'; it must hold some of random, lasso, each once"),
    ({"methods": " "}, "methods is empty; it must hold some of random, lasso, each once"),
    ({"methods": "lasso lasso"}, "methods holds 'lasso' more than once; it must hold each value once"),
    ({"neurons": "30 many"}, "neurons holds 'many'; it must hold whole numbers of at least 1, each once"),
    ({"neurons": [3, True]}, "neurons holds True; it must hold whole numbers of at least 1, each once"),
    ({"neurons": "30 70"}, "neurons holds 70; the width 64 is all there are"),
    (
        {"sparsities": "0.5"},
        "sparsities holds (0.5,); it must hold pairs a/b of numbers of at least 0 and below 1, each once",
    ),
    (
        {"sparsities": "0.5/2"},
        "sparsities holds 2.0; it must hold pairs a/b of numbers of at least 0 and below 1, each once",
    ),
    ({"compiled": 1}, "compiled is 1; it must be true or false"),
    ({"precision": "float16"}, "precision is 'float16'; it must be one of auto, float32, bfloat16"),
    ({"n_sedes": 3}, f"n_sedes is not a parameter; did you mean n_seeds? (legal: {LEGAL})"),
    ({"zzz": 3}, f"zzz is not a parameter; (legal: {LEGAL})"),
    ({"lasso_steps": 101}, "lasso_steps is 101; it must be a whole number of at least 1 and at most 100"),
    ({"seed": 2**31}, "seed is 2147483648; it must be a whole number of at least 0 and at most 2147483647"),
    ({"seed": "4294967296"}, "seed is 4294967296; it must be a whole number of at least 0 and at most 2147483647"),
]


class Written(Settings):
    name: str = Field("", description="of the file")
    form: Literal["", "f16", "q8"] = Field("", description="of its weights")


def test_what_is_legal_is_said_only_where_not_every_text_is_and_an_empty_one_by_its_name(capsys):
    with pytest.raises(SettingsError, match=r"form is 'f32'; it must be one of f16, q8, or empty$"):
        Written(form="f32")
    parser = argparse.ArgumentParser(prog="write")
    add_flags(parser, Written)
    parser.print_help()
    told = " ".join(capsys.readouterr().out.split())
    assert "--name TEXT of the file --form TEXT of its weights; one of f16, q8, or empty" in told


@pytest.mark.parametrize(("values", "sentence"), REFUSED, ids=[sentence.partition(";")[0] for _, sentence in REFUSED])
def test_an_error_is_one_sentence(values, sentence):
    for make in (Config, Config.from_parameters, lambda **given: Config().replace(**given)):
        with pytest.raises(SettingsError) as caught:
            make(values) if make == Config.from_parameters else make(**values)
        assert str(caught.value) == sentence


def test_each_fault_has_one_line_and_a_missing_value_is_named():
    class Run(Settings):
        keep: str
        rounds: Count = 1

    with pytest.raises(SettingsError) as caught:
        Run(rounds=0)
    assert str(caught.value).splitlines() == [
        "keep is missing; it must be a string",
        "rounds is 0; it must be a whole number of at least 1",
    ]


def test_text_is_converted_to_the_type_of_its_field():
    read = Config(
        n_seeds="1e3", learning_rate="3e-3", target="none", methods="lasso, random", sparsities="0.1/0 0.2/0.3",
        neurons=" 30 50", strengths=3e-3, units="a,b", compiled="True", checkpoints="1",
    )  # fmt: skip
    assert read == Config(
        n_seeds=1000, learning_rate=0.003, target=None, methods=["lasso", "random"], neurons=(30, 50), units=["a", "b"],
        sparsities=((0.1, 0.0), (0.2, 0.3)), strengths=(0.003,), compiled=True, checkpoints="1",
    )  # fmt: skip
    assert Config().sparsities == ((0.5, 0.2), (0.8, 0.5))  # a default is read too


shares = st.floats(0, 1, exclude_max=True)
configs = st.builds(
    Config,
    n_seeds=st.integers(1),
    learning_rate=st.floats(0, 1, exclude_min=True),
    target=st.none() | shares,
    methods=st.lists(st.sampled_from(["random", "lasso"]), min_size=1, unique=True),
    sparsities=st.lists(st.tuples(shares, shares), min_size=1, unique=True),
    strengths=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, unique=True),
    compiled=st.booleans(),
    seed=st.sampled_from([0, 2**31 - 1]),
)


@given(configs)
def test_parameters_are_scalars_and_round_trip(config):
    parameters = config.to_parameters()
    assert {type(value) for value in parameters.values()} <= {int, float, bool, str, type(None)}
    assert Config.from_parameters(parameters) == config
    assert Config(**{name: str(value) for name, value in parameters.items()}) == config
    assert pickle.loads(pickle.dumps(config)) == config


def test_a_part_takes_the_fields_of_its_page_by_name():
    lasso = Config(lasso_steps=7, learning_rate=0.5, precision="bfloat16").lasso
    assert lasso == Lasso(n_steps=7, learning_rate=0.5, precision="bfloat16", n_records=2)

    class Page(Settings):
        lasso: Lasso = Lasso()

    assert Page(lasso=lasso).to_parameters() == {"lasso": lasso.to_parameters()}


def test_table_of_parameters():
    rows = {row.name: row[1:] for row in Config.parameters_table()}
    assert rows["n_seeds"] == ("int", 4, "a whole number of at least 1", "runs of every setting")
    assert rows["sparsities"][:2] == ("str", "0.5/0.2 0.8/0.5")
    assert rows["precision"] == ("str", "float32", "one of auto, float32, bfloat16", "")
    assert list(rows) == list(Config.model_fields)


def test_flags_are_the_fields():
    parser = argparse.ArgumentParser()
    add_flags(parser, Config)
    given = vars(parser.parse_args(["--n-seeds", "2", "--compiled", "--sparsities", "0.1/0.1"]))
    assert Config(**given) == Config(n_seeds=2, compiled=True, sparsities=((0.1, 0.1),))
    assert "step size, 100% of it; a number above 0 and at most 1 [0.003]" in " ".join(parser.format_help().split())


def test_a_fault_of_a_yaml_file_names_the_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("learning-rate: 3e-3\nneurons: [30, 50]\nstrengths: 0.5\n")
    assert Config(**read_yaml(file), n_seeds=2) == Config(n_seeds=2, learning_rate=3e-3, strengths=(0.5,))
    for content in ("- 1", "a: [", "", "\0"):
        file.write_text(content)
        with pytest.raises(SettingsError, match=r"mine\.yaml"):
            read_yaml(file)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_yaml(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("n_seeds: 010", {"n_seeds": 10}),  # not octal
        ("n_seeds: 1_000", {"n_seeds": 1000}),
        ("learning-rate: 1e-3\ncompiled: True", {"learning_rate": 1e-3, "compiled": True}),
        ("checkpoints: no", {"checkpoints": "no"}),
        ("checkpoints: 2020-01-02", {"checkpoints": "2020-01-02"}),
        ("n_seeds: 12:30", "n_seeds is '12:30'; it must be a whole number"),
        ("n_seeds: 0x10", "n_seeds is '0x10'; it must be a whole number"),
        ("compiled: yes", "compiled is 'yes'; it must be true or false"),
        ("n_seeds: 1\nn-seeds: 2", "it holds 'n_seeds' more than once"),
        ("n_seeds: =", "n_seeds is '='"),
        ("n_seeds: 1__0", "n_seeds is '1__0'; it must be a whole number"),
        ("n_seeds: 1_", "n_seeds is '1_'; it must be a whole number"),
        ("learning_rate: 0.1_5\ncheckpoints: 1_000", {"learning_rate": 0.15, "checkpoints": "1_000"}),
        ("n_seeds: 10e-1", {"n_seeds": 1}),
        ("lasso_steps: 1e-400", "lasso_steps is '1e-400'; it must be a whole number"),
        ("n_seeds: 9007199254740993e0", "n_seeds is '9007199254740993e0'; it must be a whole number"),
        (f"n_seeds: 1e{'9' * 30}", "n_seeds is '1e9+'; it must be a whole number"),
        ("checkpoints: !!python/name:os.system", "it holds the tag !!python/name:os.system"),
        ('checkpoints: "\\ud800"', r"checkpoints holds '\\ud800'; it must hold characters"),
        ('checkpoints: "a\\0b"', r"checkpoints holds '\\x00'; it must hold characters"),
    ],
)
def test_yaml_is_read_as_meant_or_refused(tmp_path, content, read):
    (tmp_path / "mine.yaml").write_text(content)
    if isinstance(read, dict):
        assert Config(**read_yaml(tmp_path / "mine.yaml")) == Config(**read)
        return
    with pytest.raises(SettingsError, match=read):
        Config(**read_yaml(tmp_path / "mine.yaml"))


PAGE = (
    """from typing import Literal
from pydantic import Field
from narrowlib.settings import Count, Rate, Settings, Words
class Config(Settings):
    n_seeds: Count = 4
    learning_rate: Rate = 1e-3
    methods: Words[Literal["random", "lasso"]] = ("random",)
ready = True; made = len("abc")""",
    """n_seeds: int = 3  # runs
learning_rate: float = 1e-2
methods: str = "lasso random\"""",
    """import math
config = Config.from_parameters(globals())
print(config)""",
)


def page(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in PAGE]
    cells[1].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "page.ipynb")
    return tmp_path / "page.ipynb"


def test_a_page_run_by_papermill_stops_at_a_wrong_parameter(tmp_path):
    source, done = page(tmp_path), tmp_path / "done.ipynb"

    def run(**parameters):
        return papermill.execute_notebook(source, done, parameters=parameters, progress_bar=False)

    printed = run(n_seeds=2, methods="random", learning_rate="3e-3").cells[-1].outputs[0].text
    assert printed == "n_seeds=2 learning_rate=0.003 methods=('random',)\n"
    wrong = {
        "n_seeds is 'many'; it must be a whole number of at least 1": {"n_seeds": "many"},
        "learning_rate is 2; it must be a number above 0 and at most 1": {"learning_rate": 2},
        "methods holds 'laso'; it must hold some of random, lasso, each once": {"methods": "laso"},
    }
    unknown = "n_sedes is not a parameter; did you mean n_seeds? (legal: n_seeds, learning_rate, methods)"
    for told, parameters in (
        ([unknown], {"n_sedes": 2}),
        ([*wrong], {name: value for each in wrong.values() for name, value in each.items()}),
    ):
        with pytest.raises(papermill.PapermillExecutionError) as caught:
            run(**parameters)
        assert (caught.value.ename, caught.value.evalue.splitlines()) == ("SettingsError", told)


def test_cells_executed_out_of_order_do_not_count_as_parameters():
    history = ["", "typo = 3", "config = Config.from_parameters(globals())", "import math", "n_seeds: int = 3"]
    session = {"__name__": "__main__", "n_seeds": 3, "typo": 3, "config": None, "math": None}
    call = "config = Config.from_parameters(globals())"
    assert Config.from_parameters(session | {"In": [*history, call]}) == Config(n_seeds=3)
    with pytest.raises(SettingsError, match="typo is not a parameter"):
        Config.from_parameters(session | {"In": [*history[:2], call]})
    for value in ("float('nan')", "-float('inf')", "[1, float('-inf')]", '{"a": None}'):  # as papermill injects them
        with pytest.raises(SettingsError, match="typo is not a parameter"):
            Config.from_parameters(session | {"In": ["typo = 3", f"n_seeds = {value}", call]} | {"n_seeds": 3})
    for unreadable in ("n = (", "f(1)", "a.b = 3", "x, y = 1, 2"):
        assert Config.from_parameters(session | {"In": ["typo = 3", unreadable, call]}).n_seeds == 3
    assert Config.from_parameters(session) == Config(n_seeds=3)  # a script
