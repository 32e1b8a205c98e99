"""Models behind servers: prompts and answers as token ids over HTTP."""
