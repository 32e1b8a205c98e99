"""What a run would need and cost, before anything is spent."""
