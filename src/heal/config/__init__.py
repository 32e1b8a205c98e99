"""One run's settings: one YAML file, one frozen tree.

Every setting is documented under itself and says what None means. `heal.recipe` reads the file.
Nothing here touches models or data.
"""

from heal.config.engines import Engines, HttpEndpoint, HttpEngine, LocalEngine, RayEngine
from heal.config.method import Gear, Line, Pace, Pure, SamplingSettings, Steps
from heal.config.models import ModelRef, Serve, Student
from heal.config.problems import Fields, GymSource, Problems, TraceFields, TraceFormat, Traces
from heal.config.section import Section
from heal.config.training import Evaluate, Launch, Train
from heal.config.tree import ArmName, Config, Limits

__all__ = [
    "ArmName",
    "Config",
    "Engines",
    "Evaluate",
    "Fields",
    "Gear",
    "GymSource",
    "HttpEndpoint",
    "HttpEngine",
    "Launch",
    "Limits",
    "Line",
    "LocalEngine",
    "ModelRef",
    "Pace",
    "Problems",
    "Pure",
    "RayEngine",
    "SamplingSettings",
    "Section",
    "Serve",
    "Steps",
    "Student",
    "TraceFields",
    "TraceFormat",
    "Traces",
    "Train",
]
