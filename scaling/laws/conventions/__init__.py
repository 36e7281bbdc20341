"""Ways of counting N and C: the same law or runs under another convention.

recount.py    `recount`: a law of total parameters as one of non-embedding parameters, or reverse.
reconcile.py  `reconcile`: Kaplan's and Chinchilla's exponents from one law; refits of a table of
              runs under every convention that it has columns for.
compare.py    `compare`: several laws at the same budgets, and where their allocations differ.
"""
