"""The frontier: students, soft targets, runs and what is recorded of them."""

import math
import sys
import types

import pandas as pd
import pytest
import torch
from tiny_llamas import random_blocks as blocks
from tiny_llamas import random_skill, tiny_llama, tiny_tokenizer

from narrowlib.chapters.frontier import experiment
from narrowlib.chapters.frontier.config import Config, Run, pieces, runs_of
from narrowlib.chapters.frontier.experiment import FrontierStudy, tables
from narrowlib.chapters.language import config as language_config
from narrowlib.llm import costs as llm_costs
from narrowlib.llm.costs import flops_per_token
from narrowlib.llm.distillation import Distillation, soft_targets
from narrowlib.llm.models import LanguageModel
from narrowlib.llm.students import new_student, student_config
from narrowlib.llm.training import recover
from narrowlib.llm.units import n_parameters_of

CONFIG = Config(
    block_length=8, n_score_blocks=3, n_held_out_blocks=4, students=(1, 2), sparsities=((0.5, 0.5), (0.75, 0.25)),
    n_steps=6, batch_size=2, n_warmup=1, student_rate=1e-2, recovery_rate=1e-2, n_kept=8, precision="float32",
    compiled=False, evaluate_every=3, device="cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_study(monkeypatch):
    """Random blocks in place of those out of packages, and a random base model."""
    monkeypatch.setattr(language_config, "skill_blocks", random_skill)
    loaded = LanguageModel(tiny_llama(), tiny_tokenizer(), "tiny")
    monkeypatch.setattr(experiment, "load_causal_lm", lambda name, **_: loaded)


def test_students_keep_the_papers_ratios():
    base = tiny_llama(num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2)
    configs = [student_config(base, n_heads) for n_heads in (1, 2, 4)]
    assert [each.hidden_size for each in configs] == [8, 16, 32]
    assert [each.num_hidden_layers for each in configs] == [2, 3, 6]
    for each, n_heads in zip(configs, (1, 2, 4), strict=True):
        assert each.intermediate_size == 4 * each.hidden_size and each.head_dim == 8
        assert each.num_attention_heads == each.num_key_value_heads == n_heads
    one, same, other = (new_student(base, 2, seed=seed).model.embed_tokens.weight for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    with pytest.raises(ValueError, match="n_heads is 0; it must be a whole number of at least 1"):
        student_config(base, 0)


def test_a_student_that_is_no_smaller_than_its_base_is_refused_before_any_training(monkeypatch):
    monkeypatch.setattr(experiment, "recover", None)
    study = FrontierStudy(CONFIG.replace(students=(1, 4)), progress=False)
    size = sum(parameter.numel() for parameter in new_student(study.base, 4).parameters())
    for work in (study.records, study.prepare):
        with pytest.raises(ValueError, match=f"students holds 4; such a network has {size:,} parameters"):
            work()


@pytest.mark.parametrize("n_kept", [1, 5, 61])
def test_the_kept_top_of_a_teacher_is_the_divergence_with_one_outcome_for_the_rest(n_kept):
    teacher, ids = tiny_llama(), blocks(3)
    kept = soft_targets(ids, teacher, temperature=3.0, n_kept=n_kept, batch_size=2, progress=False).with_format("torch")
    tokens, log_p = (kept[name][:].view(3, 7, n_kept) for name in ("teacher_tokens", "teacher_log_p"))
    student = torch.randn(3, 8, 61, generator=torch.Generator().manual_seed(5), dtype=torch.float32)
    loss = Distillation(temperature=3.0).top_loss(student, tokens, log_p)
    with torch.no_grad():
        p = (teacher(torch.tensor(ids["input_ids"][:])).logits[:, :-1] / 3).softmax(-1)
    q = (student[:, :-1] / 3).softmax(-1)
    top = p.argsort(-1, descending=True)
    lumped = [
        torch.cat([each.gather(-1, top[..., :n_kept]), each.gather(-1, top[..., n_kept:]).sum(-1, keepdim=True)], -1)
        for each in (p, q)
    ]
    expected = 9 * torch.special.xlogy(lumped[0], lumped[0] / lumped[1].clamp(min=1e-9)).sum(-1).mean()
    assert float(loss) == pytest.approx(float(expected), rel=5e-3, abs=2e-3)
    whole = 9 * (p * (p / q).log()).sum(-1).mean()
    assert float(loss) <= float(whole) * 1.005 + 2e-3


def test_soft_targets_on_disk_are_those_in_memory_and_train_as_the_teacher_does(tmp_path):
    teacher, ids = tiny_llama(seed=1), blocks(6)
    options = {"temperature": 2.0, "n_kept": 61, "progress": False}
    in_memory = soft_targets(ids, teacher, **options)
    on_disk = soft_targets(ids, teacher, **options, path=tmp_path / "teacher.arrow")
    assert in_memory.to_dict() == on_disk.to_dict()
    config = CONFIG.training(1e-3)
    by_teacher, by_targets = tiny_llama(), tiny_llama()
    first = recover(by_teacher, ids, config, teacher=teacher, progress=False)
    second = recover(by_targets, on_disk, config, progress=False)
    assert set(second["split"]) == {"train", "train, hard"}
    pd.testing.assert_frame_equal(first, second, check_exact=False, rtol=1e-2)
    assert (
        second.query("split == 'train'")["loss"].values != second.query("split == 'train, hard'")["loss"].values
    ).all()
    with pytest.raises(ValueError, match=r"the temperature 1.0; it must be that of the blocks, 2"):
        recover(by_targets, on_disk, config, distillation=Distillation(1.0), progress=False)
    with pytest.raises(ValueError, match="only one of them is allowed"):
        recover(by_targets, on_disk, config, teacher=teacher, progress=False)
    for bad, says in (({"n_kept": 62}, "n_kept is 62"), ({"temperature": 0.0}, "temperature is 0.0")):
        with pytest.raises(ValueError, match=says):
            soft_targets(ids, teacher, **{**options, **bad})


def test_records_hold_every_run_with_what_it_is_and_took():
    made = FrontierStudy(CONFIG, progress=False)
    records = made.records()
    assert list(records["run"].unique()) == [run.name for run in runs_of(CONFIG)]
    assert list(records["run"].unique())[-1] == "pruned-distilled-75-25"
    for run in runs_of(CONFIG):
        rows, model = records[records["run"] == run.name], made.model_of(run)
        held_out = rows[rows["split"] == "held out"]
        assert held_out["step"].tolist() == [0, 3, 6] and held_out["tokens"].tolist() == [0, 48, 96]
        assert rows["n_parameters"].eq(n_parameters_of(model)).all() and rows["n_stored"].equals(rows["n_parameters"])
        per_token = 3 * flops_per_token(model, 8) + run.is_taught * flops_per_token(made.base, 8)
        assert rows["training_flops"].iloc[-1] == 96 * per_token
        train = rows[rows["split"] == "train"]
        assert train["step"].tolist() == list(range(1, 7)) and train["seconds"].is_monotonic_increasing
        assert held_out["seconds"].iloc[0] == 0 and held_out["seconds"].iloc[-1] == train["seconds"].iloc[-1] > 0
        by_hand = train["loss"].iloc[0]
        for loss in train["loss"].iloc[1:]:
            by_hand = 0.99 * by_hand + 0.01 * loss
        assert train["smoothed"].iloc[-1] == pytest.approx(by_hand)
    assert records["seed"].eq(0).all()
    starts = records[(records["split"] == "held out") & (records["step"] == 0)].set_index("run")["loss"]
    assert starts["pruned-50-50"] == starts["pruned-distilled-50-50"]  # one cut, one held-out text, no teacher in it
    assert starts["scratch-1"] == starts["distilled-1"]


def test_every_seed_is_a_run_with_weights_and_order_of_its_own():
    config = CONFIG.replace(n_seeds=2, students=(1,), sparsities=((0.5, 0.5),))
    first, second = runs_of(config)[:4], runs_of(config)[4:]
    assert [run.name + "-seed-1" for run in first] == [run.name for run in second]
    study = FrontierStudy(config, progress=False)
    curves = {run.name: study.record(run) for run in (first[0], second[0], first[2], second[2])}
    starts = [curve.query("split == 'held out'")["loss"].iloc[0] for curve in curves.values()]
    assert starts[0] != starts[1] and starts[2] == starts[3]  # students differ, cuts of one model do not
    trained = [curve.query("split == 'train'")["loss"].tolist() for curve in curves.values()]
    assert trained[2] != trained[3] and [curve["seed"].iloc[0] for curve in curves.values()] == [0, 1, 0, 1]


def test_a_record_keeps_the_steps_that_were_read():
    config = CONFIG.replace(n_steps=7, evaluate_every=3)
    frame = pd.DataFrame({"step": [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 7], "smoothed": range(11)})
    thin = experiment.thinned(frame, config)
    assert thin["step"].tolist() == [0, 3, 3, 6, 6, 7, 7] and thin["smoothed"].tolist() == [0, 3, 4, 7, 8, 9, 10]
    names = [experiment.table_name(config.replace(model=name)) for name in ("default", "small")]
    assert names == ["runs", "small-runs"]


def test_no_two_runs_share_a_name():
    runs = [Run("pruned", (0.5, share)) for share in (0.07, 0.125, 0.1234567, 0.1234568)]
    names = [run.name for run in runs]
    assert names == ["pruned-50-7", "pruned-50-12_5", "pruned-50-12_34567", "pruned-50-12_34568"]


def test_pieces_are_made_one_by_one_and_then_collected(tmp_path, monkeypatch):
    config = CONFIG.replace(students=(1,), sparsities=((0.5, 0.5),), n_steps=2, checkpoints=str(tmp_path))
    names = pieces(config)
    assert names == ("prepare", "scratch-1", "distilled-1", "pruned-50-50", "pruned-distilled-50-50")
    for name in names:
        assert tables(config, piece=name, progress=False) == {}
        if name == "prepare":
            monkeypatch.setattr(experiment, "soft_targets", None)  # runs share these
            monkeypatch.setattr(experiment, "unit_scores", None)
    monkeypatch.setattr(experiment, "recover", None)  # nothing is trained a second time
    monkeypatch.setattr(experiment, "load_causal_lm", None)
    ((name, table),) = tables(config.replace(target_loss=2.0), progress=False).items()
    assert name == "runs" and list(table["run"].unique()) == list(names[1:])
    with pytest.raises(ValueError, match="piece is 'scratch-9'; it must be one of prepare, scratch-1"):
        tables(config, piece="scratch-9", progress=False)
    with pytest.raises(ValueError, match="checkpoints is empty"):
        tables(CONFIG, piece="prepare")


def test_energy_is_what_the_device_counts_or_absent(monkeypatch):
    assert math.isnan(llm_costs.joules_so_far(torch.device("cpu")))
    properties = types.SimpleNamespace(uuid="abc")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    counted = types.SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-abc": 7}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption={7: 2_500}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", counted)
    assert llm_costs.joules_so_far(torch.device("cuda", 0)) == 2.5
    monkeypatch.setitem(sys.modules, "pynvml", None)  # the package is not there
    assert math.isnan(llm_costs.joules_so_far(torch.device("cuda", 0)))
