"""What every domain stands on: settings, errors, authentication, the door to the database, HTTP."""
