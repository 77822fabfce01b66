"""Servers that speak OpenAI's completions API: what they are asked, and what goes wrong. No torch."""
