"""Scaling laws: forms, fits with their uncertainty and evidence, published constants, allocation.

Needs NumPy, SciPy and pandas alone, so that it serves on anybody's table of runs.
"""

from scaling.laws.approaches import Curves, Frontier, curves_from_frame, fit_approach
from scaling.laws.fitting.fit import fit, form_named, with_heldout
from scaling.laws.fitting.robust import Robust
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import PowerSum, Term
from scaling.laws.law import LEVEL, Bootstrap, Law, from_json
from scaling.laws.planning.allocate import Allocation, allocate
from scaling.laws.planning.chain import Chained, chain
from scaling.laws.published import Published, published
from scaling.laws.runs.table import RunsTable, from_frame, read
from scaling.laws.saved import laws_of_loss, load, save

__all__ = [
    "FORMS", "LEVEL", "Allocation", "Bootstrap", "Chained", "Curves", "Form", "Frontier", "Law",
    "PowerSum", "Published", "Robust", "RunsTable", "Term", "allocate", "chain", "constrain",
    "curves_from_frame", "fit", "fit_approach", "form_named", "from_frame", "from_json",
    "laws_of_loss", "load", "published", "read", "save", "with_heldout",
]
