"""All claims and validity checks (controls) of the studies, in the order of STUDIES."""

from experiments import STUDIES, load_study

LOADED_STUDIES = {name: load_study(name) for name in STUDIES}
CLAIMS = tuple(claim for study in LOADED_STUDIES.values() for claim in study.claims)
CONTROLS = tuple(control for study in LOADED_STUDIES.values() for control in study.controls)
