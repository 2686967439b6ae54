"""The network as a torch module: training, fake quantisation, data, checkpoints. Only here may torch be imported at once."""
