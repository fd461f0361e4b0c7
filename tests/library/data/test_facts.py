"""Facts, the answers of models to them, and that lm-eval comes to the same; what narrowing does to them."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_llamas import random_skill, tiny_llama, tiny_tokenizer

from narrowlib.chapters.language import config as language_config
from narrowlib.chapters.unlearning import experiment as unlearning
from narrowlib.chapters.unlearning.config import Config
from narrowlib.chapters.unlearning.experiment import relearn, tables
from narrowlib.data.facts import Fact, documents, fact_blocks, facts, without_some
from narrowlib.llm import harness
from narrowlib.llm.answers import answer_facts
from narrowlib.llm.models import LanguageModel
from narrowlib.llm.settings import LLMTrainingConfig
from narrowlib.store.downloads import UnavailableError

WORDS = sorted(
    {word for fact in facts() for word in re.findall(r"\w+|[^\w\s]+", " ".join((fact.sentence, *fact.choices)))}
)
TRAINING = LLMTrainingConfig(
    n_steps=4, batch_size=2, micro_batch_size=2, n_warmup=0, learning_rate=1e-2, precision="float32", record_every=2
)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(WORDS)


@pytest.fixture(scope="module")
def model(tokenizer):
    """A random model with a liking for two words, so that some of its answers are right."""
    model = tiny_llama("llama, untied", vocab_size=3 + len(WORDS))
    liked = tokenizer.convert_tokens_to_ids(["Africa", "Europe"])
    with torch.no_grad():
        model.lm_head.weight[[token for token in range(3 + len(WORDS)) if token not in liked]] *= 0.2
    return model


def by_hand(model, tokenizer, fact):
    """Cloze, choice and loss from one plain forward pass per choice."""
    n_prompt, losses, greedy = len(tokenizer(fact.prompt)["input_ids"]), [], []
    for choice in fact.choices:
        ids = torch.tensor(tokenizer(f"{fact.prompt} {choice}")["input_ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, n_prompt - 1 : -1].log_softmax(-1)
        losses.append(-logits.gather(1, ids[n_prompt:, None]).sum().item())
        greedy.append(bool((logits.argmax(-1) == ids[n_prompt:]).all()))
    right = fact.choices.index(fact.answer)
    return greedy[right], min(losses) == losses[right], losses[right]


def test_facts_are_halved_within_categories_and_have_four_choices():
    everything = facts()
    assert 300 <= len(everything) <= 400 and len({fact.prompt for fact in everything}) == len(everything)
    counts = pd.DataFrame(list(everything)).groupby(["category", "half"]).size().unstack()
    assert 8 <= len(counts) <= 10 and (counts["train"] - counts["test"]).abs().max() <= 1
    for fact in everything:
        assert fact.answer in fact.choices and len(set(fact.choices)) == 4
    places = np.bincount([fact.choices.index(fact.answer) for fact in everything]) / len(everything)
    assert places.min() > 0.15  # the order tells nothing
    dog = next(fact for fact in everything if fact.prompt == "A baby dog is called a")
    assert dog.answer == "puppy" and "pup" not in dog.choices
    some = facts("test", per_category=3)
    assert len(some) == 3 * len(counts) and set(some) <= set(facts("test"))


def test_blocks_hold_every_fact_before_any_comes_again(tokenizer):
    some = facts("train", per_category=1)
    sentences = [[*tokenizer(fact.sentence)["input_ids"], 1] for fact in some]
    n_tokens = sum(map(len, sentences))
    ids = np.ravel(fact_blocks(tokenizer, some, n_tokens=2 * n_tokens, block_length=2)["input_ids"])
    passes = [
        np.split(each, np.flatnonzero(each == 1)[:-1] + 1) for each in (ids[:n_tokens], ids[n_tokens : 2 * n_tokens])
    ]
    for one in passes:
        assert sorted(map(list, one)) == sorted(sentences)
    assert [list(one) for one in passes[0]] != [list(one) for one in passes[1]]
    with pytest.raises(ValueError, match="block_length is 64; it must be at least 2 and at most n_tokens, 63"):
        fact_blocks(tokenizer, some, n_tokens=63)


def test_answers_are_those_of_plain_forward_passes(model, tokenizer):
    some = facts("test", per_category=3)
    found = answer_facts(model.train(), tokenizer, some, batch_size=4)
    assert model.training
    expected = pd.DataFrame(
        [by_hand(model.eval(), tokenizer, fact) for fact in some], columns=["cloze", "choice", "loss"]
    )
    assert found["prompt"].tolist() == [fact.prompt for fact in some]
    pd.testing.assert_frame_equal(found[["cloze", "choice"]], expected[["cloze", "choice"]])
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-4)
    assert 0 < found["choice"].mean() < 1  # some right, some not


def test_a_prompt_that_is_split_in_another_way_before_an_answer(model):
    """Where the last word of a prompt alone is two tokens, lm-eval counts the choice from the second one on."""

    def tokenizer(text):
        ids = [3 + len(word) for word in text.split()]
        return {"input_ids": [*ids[:-1], 20, 21] if text.endswith("is") else ids}

    fact = Fact("none", "test", "one two is", "red house far", ("red house far", "green tree near", "a b c", "old d e"))
    found = answer_facts(model, tokenizer, [fact]).iloc[0]
    cloze, choice, loss = by_hand(model, tokenizer, fact)
    assert (found["cloze"], found["choice"]) == (cloze, choice) and found["loss"] == pytest.approx(loss, rel=1e-4)


def test_lm_eval_comes_to_the_same_accuracies(model, tokenizer):
    ours = answer_facts(model, tokenizer, facts("test"))
    table = harness.benchmark_accuracies(model, tokenizer).set_index("task")
    assert table.loc["narrow_facts_cloze", "accuracy"] == pytest.approx(ours["cloze"].mean())
    assert table.loc["narrow_facts_choice", "accuracy"] == pytest.approx(ours["choice"].mean())
    assert table["n_questions"].tolist() == [len(facts("test"))] * 2
    assert ours["cloze"].any() and not ours["choice"].all()
    assert documents()["train"].num_rows + documents()["test"].num_rows == len(facts())


def test_benchmarks_without_the_hub_are_refused_in_one_sentence(model, tokenizer, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr("datasets.load_dataset", unreachable)
    for task in ("counterfact", "arc_easy", "wmdp_bio", "wmdp_cyber", "wmdp_chem"):  # the paper's
        with pytest.raises(
            UnavailableError, match=f"the data of '{task}' cannot be downloaded .*Couldn't reach the Hub"
        ):
            harness.benchmark_accuracies(model, tokenizer, [task])
    with pytest.raises(ValueError, match="tasks holds 'no_such'; neither lm-eval nor"):
        harness.benchmark_accuracies(model, tokenizer, ["no_such"])


def test_a_task_without_an_accuracy_is_refused_in_one_sentence(model, tokenizer, monkeypatch):
    told = {"results": {"gsm8k": {"exact_match,strict-match": 0.5}}, "n-samples": {"gsm8k": {"effective": 2}}}
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda *_, **__: told)
    with pytest.raises(ValueError, match="tasks holds 'gsm8k', for which lm-eval reports no accuracy"):
        harness.benchmark_accuracies(model, tokenizer, ["gsm8k"])


def test_relearning_asks_before_between_and_after(tokenizer):
    model = tiny_llama(vocab_size=3 + len(WORDS))
    before = answer_facts(model, tokenizer, facts("test", per_category=2))
    learned, asked = (facts(half, per_category=2) for half in ("train", "test"))
    found = relearn(model, tokenizer, TRAINING, learned, asked, progress=False)
    assert found.groupby("step")["tokens"].first().to_dict() == {0: 0, 2: 256, 4: 512}
    assert set(found["half"]) == {"test"} and len(found) == 3 * len(before)
    np.testing.assert_allclose(found.loc[found["step"] == 0, "loss"], before["loss"], rtol=1e-5)
    after = answer_facts(model, tokenizer, facts("test", per_category=2))
    np.testing.assert_allclose(found.loc[found["step"] == 4, "loss"], after["loss"], rtol=1e-5)
    assert after["loss"].mean() < before["loss"].mean()


def test_facts_held_back_are_not_learned():
    learned = facts("train")
    rest, back = without_some(learned)
    assert sorted(rest + back, key=str) == sorted(learned, key=str) and not set(rest) & set(back)
    assert {fact.category for fact in back} == {fact.category for fact in learned}
    assert len(back) == pytest.approx(len(learned) / 4, rel=0.1)
    assert without_some(learned[:1]) == (list(learned[:1]), list(learned[:1]))


@pytest.fixture
def tiny_study(tokenizer, monkeypatch):
    monkeypatch.setattr(language_config, "skill_blocks", random_skill)
    model = tiny_llama(vocab_size=3 + len(WORDS))
    monkeypatch.setattr(unlearning, "load_causal_lm", lambda name, **_: LanguageModel(model, tokenizer, name))
    return model


def test_tables_of_all_methods_are_made_once(tiny_study, tmp_path, monkeypatch):
    config = Config(
        sparsities="0.5", python_steps=2, python_batch_size=2, lasso_steps=2, lasso_strength=1e-2, relearning_steps=2,
        relearning_batch_size=2, relearning_rates="1e-2 1e-9", rate_steps=3, precision="float32", n_records=1,
        facts_per_category=1, model="tiny", block_length=8, n_score_blocks=2, n_held_out_blocks=2, device="cpu",
        checkpoints=tmp_path,
    )  # fmt: skip
    before = {name: values.clone() for name, values in tiny_study.state_dict().items()}
    made = tables(config, progress=False)
    torch.testing.assert_close(tiny_study.state_dict(), before)
    answers = made["answers"].groupby(["method", "sparsity"], sort=False)
    assert list(answers.groups) == list(config.runs()) and answers["step"].unique().map(list).eq([[0, 2]] * 6).all()
    sizes = answers["n_parameters"].first()
    assert sizes["base"].item() == sizes["python"].item() > sizes["random"].item() == sizes["scratch"].item()
    losses = made["skills"].query("skill == 'python'").set_index("method")["loss"]
    assert losses.nunique() == 6
    rates = made["rates"].pivot(index=["method", "sparsity"], columns="learning_rate", values="loss")
    assert (rates[1e-2] < rates[1e-9]).all()  # and the answers are those of the better one
    last = made["answers"].query("step == 2").groupby(["method", "sparsity"])["loss"].mean()
    first = made["answers"].query("step == 0").groupby(["method", "sparsity"])["loss"].mean()
    assert ((last - first).abs() > 1e-3).all()
    monkeypatch.setattr(unlearning, "recover", None)  # nothing is trained a second time
    for name, table in tables(config, progress=False).items():
        pd.testing.assert_frame_equal(table, made[name])
