"""A second round: what a trained student still fails goes back to the teacher."""

from heal.rounds.plan import Plan, plan_round
from heal.rounds.traces import Round, make_round

__all__ = ["Plan", "Round", "make_round", "plan_round"]
