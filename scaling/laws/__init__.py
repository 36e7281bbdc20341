"""Scaling laws: forms, fits with their uncertainty and evidence, published constants, allocation.

Needs NumPy, SciPy and pandas alone, so that it serves on anybody's table of runs.
"""

from scaling.laws.allocate import Allocation, allocate
from scaling.laws.fit import fit, form_named, with_heldout
from scaling.laws.forms.catalogue import FORMS
from scaling.laws.forms.form import Form
from scaling.laws.forms.powers import PowerSum, Term
from scaling.laws.law import LEVEL, Bootstrap, Law, from_json, load, save
from scaling.laws.published import Published, published
from scaling.laws.robust import Robust
from scaling.laws.table import RunsTable, from_frame, read

__all__ = [
    "FORMS", "LEVEL", "Allocation", "Bootstrap", "Form", "Law", "PowerSum", "Published", "Robust",
    "RunsTable", "Term", "allocate", "fit", "form_named", "from_frame", "from_json", "load",
    "published", "read", "save", "with_heldout",
]
