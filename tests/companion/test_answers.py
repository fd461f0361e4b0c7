"""Answers in every form that a reader may write them: judged alike on a page and in a course."""

import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import torch
from companion.answers import plain

from narrowlib.answering import number, numbers, rule, text

THIRD = {  # what is asked for is 1/3, with two digits
    "right": [
        *(0.33, 1 / 3, "1/3", " 1 / 3 ", "1/3.", ".333", "+0.333\n", "33%", "33.3 %", "333e-3", "3.33 × 10^-1"),
        *(np.float32(1 / 3), np.array([[1 / 3]]), pd.Series([1 / 3]), torch.tensor(1 / 3, dtype=torch.bfloat16)),
        *(torch.tensor([1 / 3], requires_grad=True), [1 / 3], ("1/3",), Fraction(1, 3), Decimal("0.333")),
    ],
    "wrong": [
        *(0.3, 0.34, 33, "33", "0,33", "0,333", "1/3/1", "1/0", "−0.333", -1 / 3, "third", "", "%", "1e999", "nan"),
        *(True, [True], np.True_, [], {}, {"a": 1 / 3}, [1 / 3, 1 / 3], np.array([]), math.nan, Decimal("NaN")),
    ],
}
COUNT = {  # what is asked for is 635376
    "right": [
        *(635376, 635376.0, np.int64(635376), torch.tensor(635376), "635376", "635,376", "635 376", "635_376"),
        *("635\u202f376", "635'376", "635,376.0", "6.35376e5", "1270752/2", Fraction(635376), (635376,)),
    ],
    "wrong": [635375, 635376.5, "635.376", "6,35,376", "0635,376x", "63,5376", "0,635,376", "635,3760", 10**400],
}
PAIR = {  # 1 and -1/2
    "right": [(1, -0.5), [1.0, "-1/2"], ["1", "−0.5"], np.array([1, -0.5]), torch.tensor([1, -0.5]), [[1], [-0.5]]],
    "wrong": [(-0.5, 1), [1], [1, -0.5, 0], "1, -0.5", {"a": 1, "b": -0.5}, 1, [True, -0.5], [1, None]],
}
NAME = {"right": ["pruned", " Pruned\n", np.str_("PRUNED")], "wrong": ["prune", "", 0, ["pruned"], True]}
ASKED = {
    "third": (THIRD, lambda answer: number(answer, 1 / 3, "no", digits=2)),
    "count": (COUNT, lambda answer: number(answer, 635376, "no")),
    "pair": (PAIR, lambda answer: numbers(answer, [1, -0.5], "no", digits=2)),
    "pair by a rule": (PAIR, lambda answer: rule([answer], lambda pair: (pair.ravel() == [1, -0.5]).all(), "no")),
    "name": (NAME, lambda answer: text(answer, ["pruned"], "no")),
}


@pytest.mark.parametrize("kind", ["right", "wrong"])
@pytest.mark.parametrize("asked", ASKED)
def test_any_form_of_an_answer_is_judged_alike_on_a_page_and_in_a_course(asked, kind):
    forms, verdict = ASKED[asked]
    for form in forms[kind]:
        for answer in (form, json.loads(json.dumps(plain(form)))):
            said = verdict(answer)
            assert said == "" if kind == "right" else said, (form, answer, said)


@pytest.mark.parametrize("verdict", [verdict for _, verdict in ASKED.values()])
def test_without_an_answer_there_is_no_verdict(verdict):
    assert verdict(None) is None
