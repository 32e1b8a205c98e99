"""What a run would need and cost, said before it starts."""
