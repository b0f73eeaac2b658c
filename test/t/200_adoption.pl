# An account filled by another integration is taken over, not doubled.

use strict;
use warnings;
