"""Environments: the token MDP, its Gymnasium views, and the tasks they start from.

mdp             TextMDP: context, action, environment message, reward. Start here.
episode         state of one episode
episode_scores  scores of turns, episodes and groups
null_reward     the reward of an environment that has none
token_env       TokenEnv: one episode, one token per step; the reference view
vector_env      TokenVectorEnv: B episodes in lockstep; the view that training uses
task_sources    lists, files, datasets and functions as tasks
task_stream     TaskStream: the order in which a run takes them
task_order/     task samplers: sequential, shuffled, difficulty pools; exact shares
mixture/        several environments in one run: mixtures, stages, their streams of tasks
records/        typed records of files, data frames, data sets and lists
spec            from a spec (`reverse?max_length=6`) to a TextMDP
registration    make_mdp, make_env, make_vec; the decorator `env`, register_env; Gymnasium's registry
builtin/        the built-in environments, by family
"""
