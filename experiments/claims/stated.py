"""What all studies claim, and what their claims rest on, in the order of STUDIES."""

from experiments import STUDIES, load

LOADED = {name: load(name) for name in STUDIES}
CLAIMS = tuple(claim for study in LOADED.values() for claim in study.claims)
CONTROLS = tuple(control for study in LOADED.values() for control in study.controls)
