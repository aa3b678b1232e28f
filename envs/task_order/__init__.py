"""The order of the tasks of one environment: samplers with a state, and exact shares.

sampler         TaskSampler and TaskResult: what a sampler is, and what it learns about a task
options         TaskOptions: the settings `tasks.*`
fixed           Sequential and Shuffled
difficulty      DifficultyPools: pools of easy, medium and hard tasks by running success
exact_shares    ExactShares: a sequence whose counts stay within 1 of their shares

`rlalign.envs.task_stream` draws the tasks that a sampler numbers. `rlalign.registry.TASK_ORDERS` has the samplers by
name; `tasks.order` also takes `module:attr` and `file.py:attr`.
"""
