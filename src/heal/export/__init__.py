"""What a run made, in the forms that other trainers read. `formats.export` is the way in."""
