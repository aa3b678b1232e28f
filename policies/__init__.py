"""Policies: language models, recurrent and tabular policies, how they sample and how they score."""
