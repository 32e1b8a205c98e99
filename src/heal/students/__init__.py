"""What a student is shown, how it is trained and examined."""
