"""Where batches come from: data sets, fresh rollouts and replay buffers."""
