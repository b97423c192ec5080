"""Maps of a whole folder of pictures: computed, shown on a page, and computed again."""
