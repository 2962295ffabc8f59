"""Making a volume's root another one, safely: plan, stage, install, trash, verify."""
