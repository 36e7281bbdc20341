"""Training of a run, from its configuration to its record.

    resolve.py      completes a configuration from its data, and checks it against them
    step.py         the compiled training step and evaluation step
    microbatch.py   gradients accumulated over microbatches, and losses of whole batches
    session.py      a run between its steps: metrics, checkpoints, evaluation, its end
    loop.py         trains one run
    packed.py       trains several runs side by side
    checkpoint.py   saves and restores states
    evaluation.py   the held-out loss
    initial.py      where a run begins: drawn parameters, or those of a trained model
    source.py       trained runs whose models other runs begin or learn from
    teacher.py      the teacher of a distillation
    memory.py       checks that a run fits in memory
    profile.py      measures the time of a step
"""
