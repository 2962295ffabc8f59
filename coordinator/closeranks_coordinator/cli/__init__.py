"""The program `closeranks`: what an operator types. Asks the HTTP API, shows the answer, says what to do."""
