"""Parameters of chapters: cells and models agree, and what is refused is refused in one sentence."""

import re
import shlex
import subprocess
import sys
from itertools import product

import nbformat
import pytest
import yaml
from companion import __main__ as companion
from companion import chapters, parameters
from companion.parameters import ParameterError
from hypothesis import given, settings
from hypothesis import strategies as st
from IPython.core.interactiveshell import InteractiveShell
from matplotlib import rc_context
from papermill.cli import papermill
from trees import ROOT

from narrowlib.recipe import cli
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.settings import SettingsError, read_yaml

WITH_PARAMETERS = [name for name in chapters.names() if parameters.quick(name)]
FREE_TEXTS = {  # of pages whose parameters hold several values, what none of them takes
    "mnist": ("neurons", "30 many"),
    "llm-pruning": ("lasso_strengths", "strong"),
    "llm-scores": ("sparsities", "0 1.5"),
    "llm-frontier": ("sparsities", "0.5/two"),
    "unlearning": ("methods", "random prayer"),
    "recipe": ("package", "no such package"),
}


@pytest.mark.parametrize("chapter", WITH_PARAMETERS)
def test_a_parameters_cell_agrees_with_the_model_of_its_page(chapter):
    quick, model = parameters.quick(chapter), parameters.model(chapter)
    rows = {row.name: row for row in model.parameters_table()}
    assert set(quick) == set(rows)
    for name, field in parameters.cell(chapter).model_fields.items():
        assert field.annotation.__name__ == rows[name].type, name
        assert rows[name].meaning, name
    assert parameters.page_module(chapter), f"{chapter} takes its Config from the library"
    model.from_parameters(quick)


SEEDS = [(chapter, name) for chapter in WITH_PARAMETERS for name in parameters.quick(chapter) if "seed" in name]


@pytest.mark.parametrize(("chapter", "name"), SEEDS)
def test_a_seed_or_a_number_of_seeds_that_is_too_large_is_refused_before_anything_runs(chapter, name):
    with pytest.raises(SettingsError, match=f"{name} is {2**32}; it must be a whole number of at least . and at most"):
        parameters.model(chapter).from_parameters(parameters.quick(chapter) | {name: 2**32})


@pytest.mark.parametrize("chapter", WITH_PARAMETERS)
def test_the_first_cell_after_the_parameters_checks_them(chapter):
    cells = chapters.code_cells(chapter)
    (place,) = [n for n, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    assert "Config.from_parameters(globals())" in cells[place + 1].source
    assert "from_parameters(globals())" not in "".join(cell.source for n, cell in enumerate(cells) if n != place + 1)


@pytest.mark.parametrize("profile", parameters.profile_names())
@pytest.mark.parametrize("chapter", WITH_PARAMETERS)
def test_profiles_are_taken_by_the_models(chapter, profile):
    parameters.model(chapter).from_parameters(parameters.quick(chapter) | parameters.of_profile(chapter, profile))


def test_profiles_hold_files_of_chapters_that_papermill_takes():
    for path in parameters.PROFILES.glob("*/*.yaml"):
        assert path.stem in chapters.names() and isinstance(yaml.safe_load(path.read_text()), dict), path


NO_FOLDER = ("/dev/null/results", "\0", "  ", "x" * 300)
NAMES = {  # what no parameter of that name takes, in any chapter
    "checkpoints": NO_FOLDER,
    "out": NO_FOLDER,
    "model": ("gpt", "no/such/model", "", "/dev/null", "~nobody", "a b/c"),
    "source": ("github", "a/b/c", ""),
    "benchmarks": ("narrow_facts_cloze no_such_task",),
}
WRONG = [(chapter, *wrong) for chapter, wrong in FREE_TEXTS.items()]
WRONG += [
    (chapter, name, text)
    for chapter in WITH_PARAMETERS
    for name, texts in NAMES.items()
    for text in texts
    if name in parameters.quick(chapter)
]


@pytest.mark.parametrize(("chapter", "name", "text"), WRONG)
def test_a_wrong_free_text_is_refused_before_anything_runs(chapter, name, text):
    with pytest.raises(SettingsError, match=rf"^{name} .*it must ") as error:
        parameters.model(chapter).from_parameters(parameters.quick(chapter) | {name: text})
    assert "\n" not in str(error.value)


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_in_P_is_taken_or_refused(text):
    try:
        parameters.chosen("hierarchy", "quick", text)
    except ParameterError as error:
        assert "\n" not in str(error)


def prepared(tmp_path, chapter, *words):
    """The code cells of a chapter as papermill prepares them for these words of its command line; none is executed."""
    nbformat.write(chapters.read_notebook(chapter), tmp_path / "page.ipynb")
    words = ["--prepare-only", tmp_path / "page.ipynb", tmp_path / "out.ipynb", *words]
    papermill(list(map(str, words)), standalone_mode=False)
    return [cell for cell in nbformat.read(tmp_path / "out.ipynb", as_version=4).cells if cell.cell_type == "code"]


def injected(tmp_path, *words):
    """The parameters that papermill injects into a chapter for these words."""
    values = {}
    (cell,) = (cell for cell in prepared(tmp_path, "methods", *words) if "injected-parameters" in cell.metadata.tags)
    exec(cell.source, values)
    return {name: values[name] for name in parameters.quick("methods") if name in values}


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """IPython, as a kernel has it."""
    with pytest.MonkeyPatch.context() as patched, rc_context():
        for name in ("displayhook", "excepthook"):
            patched.setattr(sys, name, getattr(sys, name))
        patched.setitem(sys.modules, "__main__", sys.modules["__main__"])
        yield InteractiveShell(ipython_dir=str(tmp_path_factory.mktemp("ipython")))


def wrong_for(chapter):
    """Parameters that a chapter does not take: an unknown one, each of another type or text, each out of its range."""
    rows = parameters.model(chapter).parameters_table()
    below = [row.name for row in rows if row.type in ("int", "float") and re.search("at least|above", row.legal)]
    texts = {row.name: NAMES.get(row.name, ["no such, thing"])[0] for row in rows}
    return {"no_such": "1"}, texts, dict.fromkeys(below, "-1000000000")


@pytest.mark.parametrize("chapter", WITH_PARAMETERS)
def test_papermill_stops_at_any_wrong_parameter_in_the_cell_after_the_parameters(chapter, shell, tmp_path, capsys):
    for wrong in wrong_for(chapter):
        shell.reset()
        given = [word for name, value in wrong.items() for word in ("-p", name, value)]
        for cell in prepared(tmp_path, chapter, *given):
            stopped = shell.run_cell(cell.source, store_history=True).error_in_exec
            if stopped or "Config.from_parameters" in cell.source:
                break
        assert isinstance(stopped, SettingsError), wrong
        for name, said in zip(wrong, str(stopped).splitlines(), strict=True):
            assert re.match(rf"{name} .*(; it must |is not a parameter)", said), said
    capsys.readouterr()


DOORS = {
    "make run": lambda file, text: parameters.chosen("methods", "quick", f"seed={text}"),
    "a profile": lambda file, text: parameters.checked("methods", read_yaml(file)),
    "papermill -p": lambda file, text: injected(file.parent, "-p", "seed", text),
    "papermill -f": lambda file, text: injected(file.parent, "-f", file),
    "narrow --config": lambda file, text: {"seed": RecipeConfig(keep="python", sparsity=0.5, **cli._read(file)).seed},
    "narrow --seed": lambda file, text: {"seed": RecipeConfig(seed=text, keep="python", sparsity=0.5).seed},
}


NUMBERS = {"010": 10, "1e3": 1000, "2.0": 2, "12:30": None, "4294967296": None}
BY_PAPERMILL = [("papermill -f", "010"), ("papermill -f", "12:30")]  # which reads YAML 1.1 before anyone is asked


@pytest.mark.parametrize(("door", "text"), [each for each in product(DOORS, NUMBERS) if each not in BY_PAPERMILL])
def test_at_every_door_a_number_is_read_as_meant_or_refused_before_anything_runs(tmp_path, door, text):
    file = tmp_path / "mine.yaml"
    file.write_text(f"seed: {text}\n")

    def given():
        return parameters.model("methods").from_parameters(DOORS[door](file, text)).seed

    if (seed := NUMBERS[text]) is None:
        with pytest.raises((SettingsError, ParameterError), match=r"seed is '?[^ ]*'?; it must be a whole number"):
            given()
    else:
        assert given() == seed


@pytest.mark.parametrize("cell", ["count = 4", "print(4)", "count: int", "seeds: list = [0]"])
def test_other_lines_of_a_parameters_cell_are_refused(cell, monkeypatch):
    cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]})]
    monkeypatch.setattr(chapters, "code_cells", lambda chapter: cells)
    with pytest.raises(SyntaxError, match="name: type = value"):
        parameters.cell.__wrapped__("any")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("hierarchy --set n_seedz=3", "hierarchy: n_seedz is not a parameter; did you mean n_seeds? (legal: "),
        ("hierarchy --set n_steps=abc", "hierarchy: n_steps is 'abc'; it must be a whole number"),
        ("hierarchy --set leave_below=low", "hierarchy: leave_below is 'low'; it must be a number"),
        ("hierarchy --set n_seeds", "P holds 'n_seeds'; it must hold name=value"),
        ("hierarchy --profile huge", "PROFILE is 'huge'; it must be one of quick, "),
        ("../hierarchy", "CHAPTER is '../hierarchy'; it must be one of "),
    ],
)
def test_command_refuses_in_one_sentence(arguments, says, capsys):
    assert companion.main(["run", *shlex.split(arguments)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1 and told.err.startswith(says)


def test_the_page_refuses_what_its_model_does_not_take(capsys):
    """A range is not in the parameters cell: the first cell of the page stops the run."""
    assert companion.main(["run", "hierarchy", "--profile", "smoke", "--set", "n_seeds=0"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("hierarchy: n_seeds is 0; it must be a whole number of at least 1")


def test_refusing_loads_nothing_heavy():
    """Why a refusal of a name or type takes well under a second: neither papermill nor torch is imported for it."""
    code = (
        "import sys\nfrom companion import parameters\n"
        "try: parameters.chosen('hierarchy', 'quick', 'n_seeds=few')\n"
        "except parameters.ParameterError: print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert "jupytext" in loaded and not {"papermill", "torch", "pandas", "grimp"} & set(loaded)
