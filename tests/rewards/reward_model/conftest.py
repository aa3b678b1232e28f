"""The models of tests/reward_models, for the tests of their folders."""

from tests.reward_models.conftest import chat_model, linear, pairs_file, text_model

__all__ = ["chat_model", "linear", "pairs_file", "text_model"]
