"""What kind of state is it? Local or lasting, of a speaker or a person, of a word or its meaning, felt or shown."""
