"""`quernel doctor`: examines a deployment and says what to mend."""
