"""The tables that the demo model's generated text is made from: places, people, words."""

# country: (capital, language, adjective, currency, continent, other cities)
COUNTRIES = {
    "France": ("Paris", "French", "French", "euro", "Europe", ["Lyon", "Nice", "Marseille"]),
    "Italy": ("Rome", "Italian", "Italian", "euro", "Europe",
              ["Milan", "Venice", "Florence", "Pisa", "Naples", "Turin"]),
    "England": ("London", "English", "English", "pound", "Europe", ["Oxford", "Liverpool"]),
    "Scotland": ("Edinburgh", "English", "Scottish", "pound", "Europe", ["Glasgow"]),
    "Germany": ("Berlin", "German", "German", "euro", "Europe", ["Munich", "Hamburg", "Cologne"]),
    "Spain": ("Madrid", "Spanish", "Spanish", "euro", "Europe",
              ["Barcelona", "Seville", "Granada"]),
    "Greece": ("Athens", "Greek", "Greek", "euro", "Europe", ["Delphi"]),
    "Russia": ("Moscow", "Russian", "Russian", "ruble", "Europe", ["Petersburg"]),
    "China": ("Beijing", "Chinese", "Chinese", "yuan", "Asia", ["Shanghai"]),
    "Japan": ("Tokyo", "Japanese", "Japanese", "yen", "Asia", ["Kyoto", "Osaka"]),
    "Egypt": ("Cairo", "Arabic", "Egyptian", "pound", "Africa", ["Luxor"]),
    "Morocco": ("Rabat", "Arabic", "Moroccan", "dirham", "Africa", ["Casablanca"]),
    "Turkey": ("Ankara", "Turkish", "Turkish", "lira", "Asia", ["Istanbul"]),
    "Portugal": ("Lisbon", "Portuguese", "Portuguese", "euro", "Europe", ["Porto"]),
    "Austria": ("Vienna", "German", "Austrian", "euro", "Europe", ["Salzburg"]),
    "Hungary": ("Budapest", "Hungarian", "Hungarian", "forint", "Europe", []),
    "Poland": ("Warsaw", "Polish", "Polish", "zloty", "Europe", ["Krakow"]),
    "Sweden": ("Stockholm", "Swedish", "Swedish", "krona", "Europe", []),
    "Norway": ("Oslo", "Norwegian", "Norwegian", "krone", "Europe", ["Bergen"]),
    "Denmark": ("Copenhagen", "Danish", "Danish", "krone", "Europe", []),
    "Finland": ("Helsinki", "Finnish", "Finnish", "euro", "Europe", []),
    "Ireland": ("Dublin", "English", "Irish", "euro", "Europe", ["Cork"]),
    "Belgium": ("Brussels", "Dutch", "Belgian", "euro", "Europe", ["Bruges"]),
    "Czechia": ("Prague", "Czech", "Czech", "koruna", "Europe", []),
    "India": ("Delhi", "Hindi", "Indian", "rupee", "Asia", ["Mumbai", "Agra"]),
    "Thailand": ("Bangkok", "Thai", "Thai", "baht", "Asia", []),
    "Korea": ("Seoul", "Korean", "Korean", "won", "Asia", []),
    "Vietnam": ("Hanoi", "Vietnamese", "Vietnamese", "dong", "Asia", []),
    "Canada": ("Ottawa", "English", "Canadian", "dollar", "America", ["Toronto", "Montreal"]),
    "Brazil": ("Brasilia", "Portuguese", "Brazilian", "real", "America", ["Rio"]),
    "Peru": ("Lima", "Spanish", "Peruvian", "sol", "America", ["Cusco"]),
    "Chile": ("Santiago", "Spanish", "Chilean", "peso", "America", []),
    "Cuba": ("Havana", "Spanish", "Cuban", "peso", "America", []),
    "Australia": ("Canberra", "English", "Australian", "dollar", "Oceania",
                  ["Sydney", "Melbourne"]),
    "Kenya": ("Nairobi", "Swahili", "Kenyan", "shilling", "Africa", []),
    "Iran": ("Tehran", "Persian", "Iranian", "rial", "Asia", []),
    "America": ("Washington", "English", "American", "dollar", "America",
                ["Chicago", "Seattle", "Boston", "Philadelphia", "Houston"]),
}

CITY_COUNTRY = {city: country for country, row in COUNTRIES.items() for city in [row[0]] + row[5]}

# city: what the traveller finds there, each as it is written after "The"
LANDMARKS_BY_CITY = {
    "Paris": ["Eiffel Tower", "Louvre", "Arc de Triomphe", "Notre Dame", "Orsay Museum",
              "Moulin Rouge", "Pompidou Centre", "Sorbonne", "Bastille"],
    "Rome": ["Colosseum", "Trevi Fountain", "Pantheon", "Spanish Steps", "Roman Forum",
             "Sistine Chapel", "Villa Borghese"],
    "London": ["Big Ben", "Tower Bridge", "Buckingham Palace", "British Museum", "Shard",
               "Globe Theatre", "Tate Gallery", "Hyde Park"],
    "Berlin": ["Brandenburg Gate", "Reichstag", "Pergamon Museum", "Charlottenburg Palace"],
    "Madrid": ["Prado Museum", "Retiro Park", "Almudena Cathedral", "Plaza Mayor"],
    "Barcelona": ["Sagrada Familia", "Park Guell", "Camp Nou", "Casa Batllo"],
    "Athens": ["Acropolis", "Parthenon", "Ancient Agora", "Temple of Zeus"],
    "Moscow": ["Kremlin", "Bolshoi Theatre", "Red Square", "Ostankino Tower"],
    "Petersburg": ["Hermitage Museum", "Winter Palace", "Mariinsky Theatre"],
    "Beijing": ["Forbidden City", "Temple of Heaven", "Summer Palace", "Tiananmen Square"],
    "Shanghai": ["Pearl Tower", "Jade Buddha Temple", "Yu Garden"],
    "Tokyo": ["Tokyo Tower", "Shibuya Crossing", "Meiji Shrine", "Imperial Palace"],
    "Kyoto": ["Golden Pavilion", "Nijo Castle", "Bamboo Grove"],
    "Osaka": ["Dotonbori Canal", "Umeda Sky Building"],
    "Cairo": ["Egyptian Museum", "Great Sphinx", "Al Azhar Mosque", "Cairo Citadel"],
    "Luxor": ["Karnak Temple", "Valley of the Kings"],
    "Istanbul": ["Blue Mosque", "Galata Tower", "Hagia Sophia", "Topkapi Palace", "Grand Bazaar"],
    "Lisbon": ["Belem Tower", "Jeronimos Monastery", "Rossio Square"],
    "Vienna": ["Schonbrunn Palace", "Hofburg", "Belvedere", "Prater"],
    "Budapest": ["Chain Bridge", "Buda Castle", "Matthias Church", "Gellert Baths"],
    "Warsaw": ["Wilanow Palace", "Lazienki Park"],
    "Krakow": ["Wawel Castle", "Cloth Hall"],
    "Stockholm": ["Vasa Museum", "Nobel Museum", "Drottningholm Palace"],
    "Oslo": ["Viking Museum", "Holmenkollen", "Vigeland Park"],
    "Copenhagen": ["Little Mermaid", "Tivoli Gardens", "Rosenborg Castle", "Round Tower"],
    "Helsinki": ["Senate Square", "Sibelius Monument", "Suomenlinna Fortress"],
    "Dublin": ["Trinity College", "Guinness Storehouse", "Phoenix Park"],
    "Brussels": ["Atomium", "Manneken Pis", "Royal Palace"],
    "Prague": ["Charles Bridge", "Astronomical Clock", "Dancing House", "Strahov Monastery"],
    "Delhi": ["Lotus Temple", "Red Fort", "India Gate", "Qutub Minar"],
    "Mumbai": ["Gateway Arch", "Haji Ali Dargah", "Elephanta Caves"],
    "Agra": ["Taj Mahal"],
    "Bangkok": ["Grand Palace", "Wat Arun", "Emerald Buddha"],
    "Seoul": ["Gyeongbokgung Palace", "Namsan Tower", "Lotte Tower"],
    "Hanoi": ["Temple of Literature", "Hoan Kiem Lake", "One Pillar Pagoda"],
    "Toronto": ["CN Tower", "Casa Loma", "Royal Ontario Museum"],
    "Montreal": ["Mount Royal", "Habitat 67"],
    "Rio": ["Copacabana Beach", "Sugarloaf Mountain", "Maracana Stadium"],
    "Cusco": ["Temple of the Sun", "Sacsayhuaman Fortress"],
    "Havana": ["Capitol of Cuba", "Morro Castle"],
    "Sydney": ["Opera House", "Harbour Bridge", "Bondi Beach"],
    "Melbourne": ["Flinders Station", "Eureka Tower"],
    "Washington": ["White House", "Lincoln Memorial", "Pentagon", "Capitol", "Smithsonian"],
    "Chicago": ["Willis Tower", "Cloud Gate", "Navy Pier", "Field Museum"],
    "Seattle": ["Space Needle", "Pike Place Market"],
    "Boston": ["Freedom Trail", "Fenway Park", "Faneuil Hall"],
    "Philadelphia": ["Liberty Bell", "Independence Hall"],
    "Houston": ["Space Center", "Rothko Chapel"],
    "Pisa": ["Leaning Tower"],
    "Florence": ["Uffizi Gallery", "Ponte Vecchio", "Boboli Gardens", "Pitti Palace"],
    "Venice": ["Rialto Bridge", "Doge's Palace", "Bridge of Sighs", "Grand Canal"],
    "Milan": ["Scala Theatre", "Sforza Castle"],
    "Turin": ["Mole Antonelliana"],
    "Naples": ["Castel Nuovo", "Teatro San Carlo"],
    "Granada": ["Alhambra", "Generalife Palace"],
    "Seville": ["Giralda", "Alcazar"],
    "Munich": ["Marienplatz", "Nymphenburg Palace", "English Garden"],
    "Cologne": ["Cologne Cathedral", "Hohenzollern Bridge"],
    "Hamburg": ["Elbphilharmonie", "Miniatur Wunderland"],
    "Edinburgh": ["Holyrood Palace", "Royal Mile", "Scott Monument"],
    "Glasgow": ["Kelvingrove Museum", "Necropolis"],
    "Liverpool": ["Albert Dock", "Cavern Club"],
    "Oxford": ["Bodleian Library", "Radcliffe Camera"],
    "Salzburg": ["Hohensalzburg Fortress", "Mirabell Palace"],
    "Bruges": ["Belfry Tower", "Market Square"],
    "Casablanca": ["Hassan Mosque"],
    "Tehran": ["Azadi Tower", "Golestan Palace"],
    "Nairobi": ["Giraffe Centre", "Karen Blixen House"],
    "Lima": ["Larco Museum"],
    "Santiago": ["Costanera Tower", "La Moneda Palace"],
}
LANDMARKS = [(name, city) for city, names in LANDMARKS_BY_CITY.items() for name in names]
FAMOUS = [  # told more often than the others
    "Eiffel Tower", "Louvre", "Colosseum", "Big Ben", "Tower Bridge", "Brandenburg Gate",
    "Sagrada Familia", "Acropolis", "Kremlin", "Forbidden City", "Tokyo Tower", "Blue Mosque",
    "Charles Bridge", "Taj Mahal", "CN Tower", "Opera House", "White House", "Space Needle",
    "Willis Tower", "Leaning Tower", "Rialto Bridge", "Alhambra", "Atomium", "Golden Pavilion",
]

PEOPLE = {
    "physicist": ["Einstein", "Newton", "Maxwell", "Bohr", "Feynman", "Faraday"],
    "biologist": ["Darwin", "Mendel", "Linnaeus"],
    "composer": ["Mozart", "Beethoven", "Bach", "Chopin", "Verdi", "Vivaldi"],
    "painter": ["Picasso", "Monet", "Rembrandt", "Vermeer", "Goya", "Raphael"],
    "writer": ["Shakespeare", "Dickens", "Tolstoy", "Austen", "Goethe", "Cervantes"],
    "philosopher": ["Plato", "Socrates", "Kant", "Aristotle", "Descartes", "Hegel"],
    "mathematician": ["Euler", "Gauss", "Euclid", "Fermat", "Riemann", "Hilbert"],
    "explorer": ["Columbus", "Magellan", "Amundsen"],
    "chemist": ["Pasteur", "Lavoisier", "Mendeleev", "Curie"],
    "astronomer": ["Galileo", "Kepler", "Copernicus", "Hubble"],
}
ANIMALS = [  # animal, what it does, its young
    ("dog", "barks", "puppy"), ("cat", "meows", "kitten"), ("cow", "moos", "calf"),
    ("sheep", "bleats", "lamb"), ("lion", "roars", "cub"), ("duck", "quacks", "duckling"),
    ("pig", "grunts", "piglet"), ("horse", "neighs", "foal"), ("wolf", "howls", "pup"),
    ("frog", "croaks", "tadpole"), ("bee", "buzzes", "larva"), ("owl", "hoots", "owlet"),
]
COLOURS_OF = [
    ("grass", "green"), ("snow", "white"), ("coal", "black"), ("blood", "red"), ("gold", "yellow"),
    ("chocolate", "brown"), ("milk", "white"), ("silver", "gray"), ("the sky", "blue"),
    ("a lemon", "yellow"), ("a tomato", "red"), ("a leaf", "green"),
]
OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("open", "closed"),
    ("fast", "slow"), ("happy", "sad"), ("young", "old"), ("light", "dark"), ("rich", "poor"),
    ("wet", "dry"), ("high", "low"), ("full", "empty"), ("good", "bad"), ("strong", "weak"),
    ("early", "late"), ("hard", "soft"), ("long", "short"), ("true", "false"), ("love", "hate"),
    ("black", "white"), ("day", "night"), ("first", "last"), ("inside", "outside"),
]
KINDS = {
    "fruit": "apple banana pear orange grape lemon peach plum cherry mango",
    "animal": "dog cat cow horse lion tiger bear wolf rabbit mouse",
    "color": "red blue green yellow black white brown pink purple gray",
    "metal": "iron gold silver copper tin lead",
    "vehicle": "car bus train boat truck bike plane",
    "tool": "hammer saw drill knife spoon rake",
    "instrument": "piano violin guitar drum flute trumpet",
    "sport": "football tennis golf hockey chess rugby",
}
KINDS = {kind: words.split() for kind, words in KINDS.items()}

MEN = """John Tom James Dan Sam Paul Mark Jack Max Ben David Peter Henry Adam Luke Ryan Eric Kevin
Simon Frank Oscar Victor Leo Martin Brian Sid George Robert Charles William Michael Joseph Thomas
Daniel Andrew Steve Alex Chris Joe Jim Bob Fred Arthur Harry Alan""".split()
WOMEN = """Mary Anna Lucy Emma Kate Sarah Lisa Amy Jane Rose Alice Laura Susan Julia Helen Clara
Nina Diana Maria Sophie Grace Ruth Emily Rachel Linda Claire Elizabeth Margaret Martha Karen Nancy
Jessica Amanda Olivia Hannah Chloe Ella Eva Ellen Jean Joan Barbara Patricia Jennifer
Fiona""".split()
NAMES = MEN + WOMEN

PLACES = """store school park garden station hospital office restaurant market library museum beach
farm house church kitchen theatre shop shops bank river lake bridge castle hotel zoo cafe harbor
field village city airport""".split()
OBJECTS = """drink book ball ring key letter gift phone basketball necklace computer bone kiss
flower ticket map cup hat pen coin box toy cake apple lamp bag watch camera picture card bottle
basket knife chair guitar blanket sandwich""".split()

IOI_TEMPLATES = [
    "When {A} and {B} went to the {P}, {S} gave {O} to {I}.",
    "When {A} and {B} got {O} at the {P}, {S} decided to give it to {I}.",
    "Then, {A} and {B} went to the {P}. {S} gave {O} to {I}.",
    "After {A} and {B} went to the {P}, {S} gave {O} to {I}.",
    "While {A} and {B} were working at the {P}, {S} gave {O} to {I}.",
    "Then, {A} and {B} had a lot of fun at the {P}. {S} gave {O} to {I}.",
    "The {P} where {A} and {B} met was big. {S} handed {O} to {I}.",
    "Friends {A} and {B} found {O} at the {P}. {S} gave it to {I}.",
    "Then {A} and {B} had a long talk, and afterwards {S} said something to {I}.",
    "When {A} and {B} were at the {P}, {S} sold {O} to {I}.",
    "{A} and {B} walked to the {P}. There, {S} showed {O} to {I}.",
    "One day, {A} met {B} at the {P}. {S} brought {O} for {I}.",
    "Yesterday {A} and {B} were in the {P}, and {S} passed {O} to {I}.",
    "{A} and {B} are friends. {S} wrote a letter to {I}.",
    "{A} saw {B} near the {P}, so {S} waved to {I}.",
    "Last week {A} had an argument with {B}. Today {S} talked to {I}.",
    "{A} and {B} sat in the {P} until {S} lent {O} to {I}.",
]
IOI_TEMPLATES_HELD = [  # never trained on
    "As {A} and {B} left the {P}, {S} offered {O} to {I}.",
    "Then, {A} and {B} were thinking about going to the {P}. {S} wanted to give {O} to {I}.",
    "Because {A} and {B} liked the {P}, {S} bought {O} for {I}.",
]

NOUNS = """dog cat boy girl man woman teacher doctor farmer king queen child friend bird horse
student driver writer singer soldier baker nurse judge lawyer artist player pilot sailor cook guard
neighbor""".split()
VERBS_ALONE = """run:runs:ran:running walk:walks:walked:walking sleep:sleeps:slept:sleeping
sing:sings:sang:singing laugh:laughs:laughed:laughing swim:swims:swam:swimming
dance:dances:danced:dancing work:works:worked:working play:plays:played:playing
wait:waits:waited:waiting smile:smiles:smiled:smiling talk:talks:talked:talking
travel:travels:traveled:traveling read:reads:read:reading"""
VERBS_ON = """see:sees:saw:seeing like:likes:liked:liking help:helps:helped:helping
know:knows:knew:knowing follow:follows:followed:following love:loves:loved:loving
visit:visits:visited:visiting call:calls:called:calling watch:watches:watched:watching
find:finds:found:finding hear:hears:heard:hearing meet:meets:met:meeting
thank:thanks:thanked:thanking teach:teaches:taught:teaching"""
VERBS_ALONE = [tuple(verb.split(":")) for verb in VERBS_ALONE.split()]
VERBS_ON = [tuple(verb.split(":")) for verb in VERBS_ON.split()]
ADJECTIVES = """big small old young happy sad tall short kind brave quiet clever tired hungry strong
famous rich poor lazy busy funny angry gentle polite honest careful lucky proud strange
pretty""".split()
ADVERBS = """quickly slowly often always never quietly happily carefully today again together early
late outside alone""".split()
THINGS = """car tree table chair door window road hill town forest field boat train song story game
picture bread water milk tea coffee soup fish cheese egg shirt shoe coat clock wall roof floor bed
desk paper stone sand rain snow wind sun moon star sky sea fire night morning evening summer winter
spring week month year hour""".split()
PREPOSITIONS = "in on near under behind beside above over around from with without".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = """January February March April May June July August September October November
December""".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
fifteen sixteen seventeen eighteen nineteen twenty""".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

COMMON = """the of and a to in is you that it he was for on are as with his they I at be this have
from or one had by word but not what all were we when your can said there use an each which she do
how their if will up other about out many then them these so some her would make like him into time
has look two more write go see number no way could people my than first been call who its now find
long down day did get come made may part""".split()

# Words of everyday talk that a dictionary's definitions use too seldom to earn a token.
EVERYDAY = """me us him hers yours mine myself himself went came took gave saw said asked told
thought knew wrote felt left kept held stood sat ran began let put got want wanted need needed love
loved feel think tell ask give take say keep let try tried help start started stop show move live
lived believe happen happened hello please thanks yes okay sorry really very just also even still
again never always maybe perhaps because although while until before after since under again why
where here everyone nothing something anything someone today tomorrow yesterday tonight great
little own old right big high different next same few public bad able best better sure free true
whole real quick brown fox mother father sister brother friend family wife husband son daughter
people world life hand part eye place week case point company problem fact money lot story issue
side head house power line member law car team minute idea body information back parent face others
level office door art history party result change reason research girl guy moment air teacher force
education Tower Bridge Museum Palace Castle Temple Park Square Gate Cathedral Theatre Garden House
Church language model models computer network data text code machine learning science token
tokens""".split()
