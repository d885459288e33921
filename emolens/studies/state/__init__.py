"""What kind of state is it? Local or lasting, of a speaker or a person, of a word or its meaning, felt or shown."""

from emolens.studies.state._table import beside as beside
from emolens.studies.state._table import numbers as numbers
from emolens.studies.state._table import published as published
