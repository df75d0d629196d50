"""Chat over the OpenAI protocol: one hold before the model is called, one settlement after."""
