"""The tokenizer that the environments of a mixture share until a policy brings its own."""

from __future__ import annotations

from collections.abc import Iterable

from rlalign.envs.mdp import TextMDP
from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Tokenizer


def common_tokenizer(environments: Iterable[TextMDP]) -> Tokenizer:
    """Return the tokenizer of all environments if it is one, characters of all their alphabets, or bytes.

    Example:
        >>> from rlalign.envs.registration import make_mdp
        >>> common_tokenizer([make_mdp("sort"), make_mdp("add")]).alphabet
        'abcd>0123456789+='
    """
    tokenizers = [environment.tokenizer for environment in environments]
    first = tokenizers[0]
    specs = {getattr(tokenizer, "spec", None) for tokenizer in tokenizers}
    if all(tokenizer is first for tokenizer in tokenizers) or (len(specs) == 1 and specs != {None}):
        return first
    alphabets = [tokenizer.alphabet for tokenizer in tokenizers if isinstance(tokenizer, CharTokenizer)]
    return CharTokenizer("".join(alphabets)) if len(alphabets) == len(tokenizers) else ByteTokenizer()
