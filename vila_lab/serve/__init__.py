"""The service: one resident model, many clients, in the words of OpenAI's chat completions. Knows no numerics."""
