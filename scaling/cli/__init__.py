"""The command line: one file for each command, and helpers that commands share.

    entry.py, main.py     the command `scaling`, its subcommands, and the handling of errors
    data.py, stores.py    `scaling data`, and the description of a store
    train.py              `scaling train`
    sweep.py, sweep_*.py, suggest.py
                          `scaling sweep` and its subcommands
    launchers.py          options of the commands that start workers
    fit.py, fit_options.py, fitted.py, approaches.py, evidence.py
                          `scaling fit`: options, laws, approaches 1 and 2, evidence
    allocate.py, compare.py, simulate.py
                          what follows from laws
    models.py, schema.py  published models, and the JSON Schema of configurations
    results.py            `scaling plot` and `scaling report`
    options.py            options with one meaning in all commands
    usage.py, old_options.py
                          messages about wrong and renamed options

Commands import their dependencies inside functions, so that each loads only what it needs.
"""
