from .deepid import build_deepid as build_deepid
from .evaluation import accuracy as accuracy
from .traits import Traits as Traits
from .traits import traits_of as traits_of
