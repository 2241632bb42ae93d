"""Factor 2, the dictionary D: a matrix, a convolution in 1 to 3 dimensions, and [I D].

A dictionary is used in two directions, ``analyze`` (Dᵀx, what a network calls a convolution) and ``synthesize``
(DΓ, its exact adjoint). Everything else here is derived from the two.
"""

from pursuitnet.dictionaries.base import Code, Dictionary
from pursuitnet.dictionaries.circular import CircularDictionary
from pursuitnet.dictionaries.composed import ComposedDictionary
from pursuitnet.dictionaries.conv import ConvDictionary
from pursuitnet.dictionaries.identity import WithIdentity
from pursuitnet.dictionaries.linear import LinearDictionary
from pursuitnet.dictionaries.reflecting import ReflectingDictionary
from pursuitnet.dictionaries.scaled import ScaledDictionary

__all__ = [
    "CircularDictionary",
    "Code",
    "ComposedDictionary",
    "ConvDictionary",
    "Dictionary",
    "LinearDictionary",
    "ReflectingDictionary",
    "ScaledDictionary",
    "WithIdentity",
]
