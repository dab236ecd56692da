"""Keeps Hypothesis from reducing what fails to its smallest case, as a pytest plugin: that takes minutes."""

from hypothesis import Phase, settings

settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate))
settings.load_profile("mutants")
