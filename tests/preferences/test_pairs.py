"""The forms of TRL, and prompts that are extracted as TRL does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rlalign.errors import UserError
from rlalign.preferences.pairs import Preference, preference_of, problems_of, shared_prefix, text_of

USER = {"role": "user", "content": "Hi"}
A = {"role": "assistant", "content": "a"}
B = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "standard explicit"),
        ({"chosen": "pa", "rejected": "pb"}, "standard implicit"),
        ({"prompt": [USER], "chosen": [A], "rejected": [B]}, "conversational explicit"),
        ({"chosen": [USER, A], "rejected": [USER, B]}, "conversational implicit"),
        ({"prompt": "Hi", "chosen": [USER, A], "rejected": [USER, B]}, "mixed"),
        ({"chosen": [A], "rejected": "b"}, "mixed"),
    ],
)
def test_forms(row: dict[str, Any], form: str) -> None:
    preference = preference_of(row)
    assert preference.form == form
    assert preference.row() == row


def test_a_row_keeps_its_columns_their_order_and_values_of_other_types() -> None:
    row = {"margin": "high", "rejected": "b", "x": None, "group": 2.5, "chosen": "a", "prompt": None, "annotator": None}
    preference = preference_of(row)
    assert list(preference.row().items()) == list(row.items())
    assert (preference.margin, preference.group) == (None, None)
    typed = preference_of({"chosen": "a", "rejected": "b", "margin": 1, "annotator": "p", "group": 3, "split": "test"})
    assert (typed.margin, typed.annotator, typed.group, typed.split) == (1, "p", 3, "test")


def test_a_new_preference_has_its_attributes_as_columns() -> None:
    preference = Preference("a", "b", "p", 0.5, extra={"x": 1})
    assert list(preference.row().items()) == [
        ("prompt", "p"), ("chosen", "a"), ("rejected", "b"), ("margin", 0.5), ("x", 1)
    ]  # fmt: skip


MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.sampled_from("abc")}),
    min_size=1,
    max_size=5,
)


@settings(deadline=None)  # the first example imports trl
@given(st.text("ab ", min_size=1, max_size=12), st.text("ab ", min_size=1, max_size=12))
def test_the_prompt_of_texts_is_that_of_trl(chosen: str, rejected: str) -> None:
    from trl.data_utils import extract_prompt

    # TRL looks at the last character if the first ones differ: its prompt is then the text without its end
    assume(chosen[0] == rejected[0] or not chosen.endswith(" "))
    expected = extract_prompt({"chosen": chosen, "rejected": rejected})
    length = shared_prefix(chosen, rejected)
    assert (chosen[:length], chosen[length:], rejected[length:]) == tuple(expected.values())


@settings(deadline=None)
@given(MESSAGES, MESSAGES)
def test_the_prompt_of_messages_is_that_of_trl(chosen: list[Any], rejected: list[Any]) -> None:
    from trl.data_utils import extract_prompt

    explicit = preference_of({"chosen": chosen, "rejected": rejected}).explicit()
    assert explicit.row() == extract_prompt({"chosen": chosen, "rejected": rejected})


def test_a_prompt_as_text_beside_messages_is_redundant() -> None:
    row = {"prompt": "Hi", "chosen": [USER, A], "rejected": [USER, B], "id": 3}
    assert preference_of(row).explicit().row() == {"prompt": [USER], "chosen": [A], "rejected": [B], "id": 3}


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ([1], "no-row", "expected columns"),
        ({"chosen": "a"}, "missing-side", "'rejected', got the columns chosen"),
        ({"chosen": "a", "rejected": None}, "missing-side", "'rejected', got none"),
        ({"chosen": "a", "rejected": 3}, "no-side", "got 3"),
        ({"chosen": [{"content": "a"}], "rejected": "b"}, "no-side", "an entry that is no message"),
        ({"chosen": "a", "rejected": "b", "prompt": {"role": "user"}}, "no-side", "'prompt', got dict"),
    ],
)
def test_what_is_no_preference(row: Any, kind: str, message: str) -> None:
    assert [found for found, _ in problems_of(row)] == [kind]
    with pytest.raises(UserError, match=r"f\.jsonl, line 3: expected") as error:
        preference_of(row, "f.jsonl, line 3")
    assert message in str(error.value)


def test_the_text_of_a_message_of_parts() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "x"}, {"type": "text", "text": "y"}]
    assert text_of([{"role": "user", "content": parts}, A]) == "xy\na"
