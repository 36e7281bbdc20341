"""Scaling laws: forms, fits with their uncertainty and evidence, published constants, allocation.

Depends on NumPy, SciPy and pandas only, so it can be used on any table of runs.
"""

from scaling.laws.allocation.allocate import Allocation, allocate
from scaling.laws.allocation.chain import Chained, chain
from scaling.laws.approaches import Curves, Frontier, curves_from_frame, fit_approach
from scaling.laws.fitting.fit_law import fit_law, form_named, with_heldout
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.constrained import constrain
from scaling.laws.forms.form import Form
from scaling.laws.forms.losses import Robust
from scaling.laws.forms.powers import PowerSum, Term
from scaling.laws.io import load, load_loss_laws, save
from scaling.laws.law import LEVEL, Bootstrap, Law
from scaling.laws.law_json import law_from_json
from scaling.laws.published import Published, published
from scaling.laws.read import from_frame, read
from scaling.laws.table import RunsTable

__all__ = [
    "FORMS", "LEVEL", "Allocation", "Bootstrap", "Chained", "Curves", "Form", "Frontier", "Law",
    "PowerSum", "Published", "Robust", "RunsTable", "Term", "allocate", "chain", "constrain",
    "curves_from_frame", "fit_approach", "fit_law", "form_named", "from_frame", "law_from_json",
    "load", "load_loss_laws", "published", "read", "save", "with_heldout",
]
