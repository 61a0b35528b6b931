"""What can label: checkpoints, pretrained networks, state dicts, programs, ensembles."""
