"""Teachers of distillation: a frozen model, or a server that gives the log-probs of token ids.

make            `make_teacher`: the teacher of a configuration, checked against the policy
check           checks of a configuration before any weight is loaded
local           a frozen policy of a folder, a hub id or a name
endpoint        a server with the completions interface of OpenAI, such as vLLM
vocabulary      the check that teacher and policy have the same token ids
"""
