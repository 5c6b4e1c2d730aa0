"""Every input of an image, named by its digest; `lock` is the only writer of locks."""
