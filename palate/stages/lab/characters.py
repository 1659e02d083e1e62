"""The reward of the experiment `length`, as a user would write one."""


def hundredths(prompts, completions, **fields):
    """The number of characters, by hundreds."""
    return [len(completion) / 100 for completion in completions]
