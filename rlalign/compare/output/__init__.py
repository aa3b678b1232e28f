"""Tables, figures and reports of a study."""
